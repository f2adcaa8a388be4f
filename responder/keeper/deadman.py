"""The dead man's switch: somebody outside is told every minute that the keeper does its duties, and calls if not.

For what nobody on this machine can tell: that it is gone. The address is one of a service like healthchecks.io, or
of a monitoring system of one's own, which calls people when it has not been asked for some minutes.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence

import httpx

from responder.domain.redaction import know

DEAD_MAN_URL = "INCIDENT_DEAD_MAN_URL"
"""Environment variable: the address that the keeper gets while all is well."""
EVERY_S = 60.0
LATELY_S = 180.0
"""A duty that has not ended well for so long stops the beat. Longer than one may wait for services that hang."""
TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


class Duty:
    """One duty of the keeper, done again and again, and when it was last done without an error."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do
        self._done = time.monotonic()

    def do(self) -> None:
        """Do it; an error is logged, and the duty not counted as done."""
        try:
            self._do()
        except Exception:
            log.exception("a duty failed; it is tried again")
        else:
            self._done = time.monotonic()

    def done_within(self, seconds: float) -> bool:
        """Whether it was done, or begun to be watched, within the last seconds."""
        return time.monotonic() - self._done < seconds


class DeadMan:
    """Gets `url` every `every_s` seconds while each of `duties` was done within the last `lately_s` seconds."""

    def __init__(
        self, url: str, duties: Sequence[Duty], *, every_s: float = EVERY_S, lately_s: float = LATELY_S
    ) -> None:
        know(url)  # whoever has it can keep the other side quiet
        self._url, self._duties, self._every_s, self._lately_s = url, duties, every_s, lately_s
        self._next = time.monotonic()

    def beat(self) -> None:
        """Get the address, if that is due and all is well. Whether it answers is the other side's to notice."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every_s
        if not all(duty.done_within(self._lately_s) for duty in self._duties):
            log.error("a duty is stuck or fails: the dead man's switch is not held")
            return
        try:
            httpx.get(self._url, timeout=TIMEOUT_S, follow_redirects=True).raise_for_status()
        except httpx.HTTPStatusError as error:
            log.warning("the dead man's switch could not be held: HTTP %s", error.response.status_code)
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # its words name the address
            log.warning("the dead man's switch could not be held: %s", type(error).__name__)


def dead_man(duties: Sequence[Duty]) -> DeadMan | None:
    """The switch of this site, if it has one."""
    url = os.environ.get(DEAD_MAN_URL)
    return DeadMan(url, duties) if url else None
