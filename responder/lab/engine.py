"""The gateway's engine: a child process that lives as long as its standard input is open.

Copied into each release directory of a lab host and run from there, so it uses the standard library only.
"""
# ruff: noqa: T201 - a program whose output is its voice

import sys

print('{"type": "engine_started"}', flush=True)
for _order in sys.stdin:
    print('{"type": "order_received"}', flush=True)
