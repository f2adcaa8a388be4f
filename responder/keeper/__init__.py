"""The small loop that keeps promises: leases, outbox, clocks, and taking up runs that crashed."""
