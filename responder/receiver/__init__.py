"""The HTTP door: people answer, take over, give back and stop everything, each by a personal token."""
