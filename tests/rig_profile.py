"""A live profile for the rig's systemd hosts: the shipped `veloz.yaml`, changed as a new installation would.

`python -m tests.rig_profile INVENTORY [NAME]` prints it as YAML.
"""

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

SECRET = "RIG_SSH_KEY"
OUTSIDE = {
    "pagerduty": {"api_token": "RIG_PAGERDUTY_TOKEN", "routing_key": "RIG_PAGERDUTY_ROUTING_KEY"},
    "slack": {"token": "RIG_SLACK_TOKEN", "backup_channel": "#rig-oncall"},
}
# Production's lower bounds: what a team could really set, and no drill.
CLOCKS = {
    "settle_s": 10,
    "verify_window_s": 10,
    "confirm_window_s": 15,
    "confirm_deadline_s": 60,
    "observe_s": 60,
    "step_s": 60,
}


def rig_profile(inventory: Path, **changes: Any) -> dict[str, Any]:
    """The profile's data for the hosts of the rig's `hosts.json`; keyword arguments replace whole sections."""
    hosts = json.loads(inventory.read_text())
    data: dict[str, Any] = yaml.safe_load((files("responder") / "services" / "veloz.yaml").read_text())
    del data["pagerduty"], data["slack"]
    data |= {
        "name": "rig",
        "mode": "live",
        "hosts": [{key: host[key] for key in ("name", "address", "port")} for host in hosts],
        "ssh": {"user": "ops", "private_key": SECRET, "known_hosts": Path(hosts[0]["known_hosts"]).read_text()},
        "guardrails": {"closing_granted": True},
        "clocks": CLOCKS,
    }
    data["endpoints"]["metrics"] |= {
        "errors_where": {"code": r"5\d\d"},
        "latency": "veloz_request_duration_seconds",
    }
    # Several incidents run within minutes of each other here.
    for name in ("restart", "rollback"):
        data["strategies"][name]["budget"] = {"attempts": 1, "within_minutes": 0.01, "per_incident": 2}
    return data | changes


def outside(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The section `pagerduty` or `slack` for a stand-in with these settings; secrets stay names."""
    return {key: value for key, value in settings.items() if key not in OUTSIDE[name]} | OUTSIDE[name]


if __name__ == "__main__":
    named = {"name": sys.argv[2]} if len(sys.argv) > 2 else {}
    yaml.safe_dump(rig_profile(Path(sys.argv[1]), **named), sys.stdout, sort_keys=False)
