"""Measurements: `python -m benchmarks.NAME [--json]`, a table for people or one JSON document."""
