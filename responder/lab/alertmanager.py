"""A stand-in for Alertmanager: it posts alerts in groups, and again when the receiver fails, as the real one does.

Source: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config; what it does on each status was
measured with Alertmanager 0.25: 5xx and connection errors are sent again with a growing pause, 4xx (429, too) is
given up until the group's next interval.
"""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from responder.lab.lab import RaisedAlert

LOOK_S = 0.1
INTERVAL_S = 10.0
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 3.0)
ANSWER_S = 30.0
NEVER = "0001-01-01T00:00:00Z"


def webhook(group: Sequence[RaisedAlert]) -> bytes:
    """The body of one group's notification, version 4."""
    firing = any(alert.ends_at is None for alert in group)
    return json.dumps(
        {
            "version": "4",
            "groupKey": group[0].group_key,
            "truncatedAlerts": 0,
            "status": "firing" if firing else "resolved",
            "receiver": "incident-responder",
            "groupLabels": {},
            "commonLabels": {},
            "commonAnnotations": {},
            "externalURL": "http://alertmanager.invalid",
            "alerts": [_alert(alert) for alert in group],
        }
    ).encode()


def _alert(alert: RaisedAlert) -> dict[str, Any]:
    return {
        "status": "resolved" if alert.ends_at else "firing",
        "labels": alert.labels,
        "annotations": alert.annotations,
        "startsAt": alert.starts_at.isoformat(),
        "endsAt": alert.ends_at.isoformat() if alert.ends_at else NEVER,
        "generatorURL": "http://prometheus.invalid",
        "fingerprint": alert.fingerprint,
    }


def post(url: str, token: str, body: bytes) -> int:
    """Send one notification; the status that came back, 0 when none did."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, data=body, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return 0


class Alertmanager:
    """Tells the receiver at `url` of every change of its alerts, a group at a time."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self._over = threading.Event()
        self._told: dict[tuple[str, datetime], bool] = {}

    def start(self, raised: Callable[[], Iterable[RaisedAlert]]) -> None:
        """Begin to look at what `raised()` returns."""
        threading.Thread(target=self._watch, args=(raised,), daemon=True).start()

    def stop(self) -> None:
        """Tell nothing more."""
        self._over.set()

    def _watch(self, raised: Callable[[], Iterable[RaisedAlert]]) -> None:
        while not self._over.wait(LOOK_S):
            groups: dict[str, list[RaisedAlert]] = {}
            for alert in raised():
                groups.setdefault(alert.group_key, []).append(alert)
            for group in groups.values():
                news = [a for a in group if self._told.get((a.fingerprint, a.starts_at)) != (a.ends_at is None)]
                # A resolved alert is told once; the others of its group are told with it again.
                if news and self._send([*news, *(a for a in group if a.ends_at is None and a not in news)]):
                    self._told |= {(a.fingerprint, a.starts_at): a.ends_at is None for a in news}

    def _send(self, group: Sequence[RaisedAlert]) -> bool:
        deadline, body = time.monotonic() + INTERVAL_S, webhook(group)
        for pause_s in (*PAUSES_S, *[PAUSES_S[-1]] * 1_000):
            status = post(self._url, self._token, body)
            if 200 <= status < 300:
                return True
            if 400 <= status < 500 or time.monotonic() > deadline or self._over.wait(pause_s):
                return False
        return False
