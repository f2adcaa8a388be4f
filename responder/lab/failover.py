"""What the service's failover.sh does. Its question for a "yes" is asked by the script itself, in the shell.

As the original: without arguments, and for whatever it does not know, it prints its usage and returns 0, and
a promotion that does not leave recovery returns 0, too.
"""

import json
import time
from typing import Any

from responder.lab.call import Call
from responder.lab.shared import State

USAGE = """\
usage: failover.sh COMPONENT ACTION
  postgres status [--json]   the primary, its standby, lag, quorum and fencing
  postgres promote [--yes]   make the standby the primary; asks for a "yes" unless it is given"""


def failover(call: Call, argv: list[str]) -> int:
    if argv in (["postgres", "status"], ["postgres", "status", "--json"]):
        return _status(call, call.machine.shared.read()["database"], "--json" in argv)
    if argv[:2] != ["postgres", "promote"]:
        call.out(USAGE)
        return 0
    if not call.root:
        call.err("failover.sh: must be root")
        return 1

    def change(state: State) -> bool:
        database = state["database"]
        database["in_recovery"] = database["in_recovery"] and database["stays_in_recovery"]
        return bool(database["in_recovery"])

    stays = call.machine.shared.change(change)
    standby = call.machine.shared.read()["database"]["standby"]
    words = "still in recovery" if stays else "primary"
    call.machine.unit.count("failover", unit="postgres", detail=f"{standby} is {words}")
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    if stays:
        call.out(f"[ERROR] {stamp} Promotion may have failed - check logs")
    else:
        call.out(f"[INFO] {stamp} {standby} is the primary now")
    return 0


def _status(call: Call, database: dict[str, Any], as_json: bool) -> int:
    shown = {
        "primary": database["primary"],
        "primary_reachable": not database["lost"],
        "standby": database["standby"],
        "standby_in_recovery": database["in_recovery"],
        "lag_seconds": database["lag_s"],
        "quorum": database["quorum"],
        "fenced": database["fenced"],
    }
    if as_json:
        call.out(json.dumps(shown))
    else:
        for key, value in shown.items():
            call.out(f"{key}: {str(value).lower() if isinstance(value, bool) else value}")
    return 0
