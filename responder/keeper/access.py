"""The keeper's credentials, kept in memory so that people can be told while Prefect is down."""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from prefect.blocks.abstract import NotificationBlock
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException

from blocks.github import GitHub
from blocks.notification import load_notification
from blocks.pagerduty import PagerDuty
from blocks.service import load_pagerduty, load_slack, load_statuspage, load_tickets, saved_profiles
from blocks.slack import Slack
from blocks.statuspage import Statuspage
from responder.domain.errors import PermanentError, TransientError
from responder.domain.profile import Profile

Block = TypeVar("Block")
FRESH_S = 60.0
NEWS_S = 2.0
"""The profiles: a new one is known soon."""


class Access:
    """Loads a service's ways to people from Prefect, and remembers them when Prefect does not answer."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[float, Any]] = {}

    def profiles(self) -> list[Profile]:
        """Those of all services, as saved now. Raises `TransientError` if Prefect is down from the start."""
        return self._get("profiles", "", lambda _: saved_profiles())

    def profile(self, service: str) -> Profile:
        """The service's profile as it is saved now. Raises like `pagerduty`."""
        for profile in self.profiles():
            if profile.name == service:
                return profile
        raise PermanentError(f"no service is saved as {service!r}; `incident service list` shows what there is")

    def pagerduty(self, service: str) -> PagerDuty:
        """The service's PagerDuty. Raises `PermanentError` (not saved) or `TransientError` (Prefect is down)."""
        return self._get("pagerduty", service, load_pagerduty)

    def slack(self, service: str) -> Slack:
        """The service's Slack. Raises like `pagerduty`."""
        return self._get("slack", service, load_slack)

    def statuspage(self, service: str) -> Statuspage:
        """The service's status page. Raises like `pagerduty`."""
        return self._get("statuspage", service, load_statuspage)

    def tickets(self, service: str) -> GitHub:
        """The service's tickets. Raises like `pagerduty`."""
        return self._get("tickets", service, load_tickets)

    def notification(self, reference: str) -> NotificationBlock:
        """The notification block saved as `block-type/name`. Raises like `pagerduty`."""
        return self._get("notification", reference, load_notification)

    def prefect_answers(self) -> bool:
        """Whether Prefect's server says that it is well."""
        with get_client(sync_client=True) as client:
            return client.api_healthcheck() is None

    def _get(self, system: str, service: str, load: Callable[[str], Block]) -> Block:
        loaded_at, block = self._known.get((system, service), (None, None))
        fresh_s = NEWS_S if system == "profiles" else FRESH_S
        if loaded_at is not None and time.monotonic() - loaded_at < fresh_s:
            return block  # type: ignore[return-value]
        try:
            block = load(service)
        except PermanentError:
            self._known.pop((system, service), None)
            raise
        except (httpx.HTTPError, PrefectException) as error:
            if loaded_at is None:
                raise TransientError(f"Prefect does not hand out the access to {system}: {error}") from error
            logging.getLogger(__name__).warning("Prefect is silent; the known access to %s is used", system)
        self._known[(system, service)] = (time.monotonic(), block)
        return block  # type: ignore[return-value]
