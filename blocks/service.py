"""A service as it is saved in Prefect: its profile, and the blocks that carry its secrets."""

import functools
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectAlreadyExists
from pydantic import Field, Secret, SecretStr, ValidationError

from blocks.ssh import SSHCredentials
from responder.domain.errors import PermanentError
from responder.domain.profile import Profile
from responder.domain.redaction import know

if TYPE_CHECKING:
    # Only the keeper and the command line speak to these: an incident's run starts faster without the SDKs.
    from blocks.github import GitHub
    from blocks.pagerduty import PagerDuty
    from blocks.slack import Slack
    from blocks.statuspage import Statuspage

Kind = TypeVar("Kind", bound=Block)
PAGE = 200
"""The most that Prefect answers at once."""
_PARTS_OF_A_TYPE = 2

log = logging.getLogger(__name__)


class Service(Block):
    """One service: its profile. Secrets lie in the blocks of the same name, one for each system."""

    _block_type_name = "Incident service"
    _block_type_slug = "incident-service"
    _description = "A service that the incident responder looks after. Written by `incident service add`."

    profile: dict[str, Any] = Field(description="The profile, as `docs/profile.md` describes it.")

    def read(self) -> Profile:
        """The validated profile."""
        return Profile.model_validate(self.profile)


def save_service(profile: Profile, secrets: Mapping[str, str]) -> None:
    """Save a profile and its secrets as blocks named after the service, replacing earlier ones.

    `secrets` maps each name of `profile.secret_names()` to its value.
    """
    from blocks.github import GitHub
    from blocks.pagerduty import PagerDuty
    from blocks.slack import Slack
    from blocks.statuspage import Statuspage

    blocks: list[Block] = [_ssh(profile, secrets)]
    if profile.pagerduty:
        access = profile.pagerduty
        blocks.append(
            PagerDuty(
                api_token=SecretStr(secrets[access.api_token]),
                routing_key=SecretStr(secrets[access.routing_key]),
                from_email=access.from_email,
                requester_id=access.requester_id,
                service_id=access.service_id,
                escalation_policy_id=access.escalation_policy_id,
                api_url=access.api_url,
                events_url=access.events_url,
            )
        )
    if profile.slack:
        blocks.append(Slack(token=SecretStr(secrets[profile.slack.token]), base_url=profile.slack.base_url))
    if profile.statuspage:
        blocks.append(
            Statuspage(
                api_token=SecretStr(secrets[profile.statuspage.api_token]),
                page_id=profile.statuspage.page_id,
                component_ids=list(profile.statuspage.component_ids),
                base_url=profile.statuspage.base_url,
            )
        )
    if profile.tickets:
        blocks.append(
            GitHub(
                token=SecretStr(secrets[profile.tickets.token]),
                repository=profile.tickets.repository,
                base_url=profile.tickets.base_url,
            )
        )
    if profile.stakeholders:
        from blocks.notification import Notification

        # So that Prefect's UI has a form for e-mail.
        beside_others(Notification.register_type_and_schema)
    # Last, so that a service that can be found has all its blocks.
    blocks.append(Service(profile=profile.model_dump(mode="json")))
    for block in blocks:
        beside_others(functools.partial(block.save, profile.name, overwrite=True))


def beside_others(save: Callable[[], object]) -> None:
    """Save, also while somebody else saves the first block of the same type, or of its new version.

    Prefect looks for the type and then makes it; who comes in between is refused, and finds it the next time.
    """
    for _ in range(_PARTS_OF_A_TYPE):
        with suppress(ObjectAlreadyExists):
            save()
            return
    save()


def saved_profiles() -> list[Profile]:
    """The profiles of all saved services, in the order of their names, read at one go.

    One that is not valid, as after an upgrade, is left out and logged: the others must not wait for it.
    """
    found: dict[str, dict[str, Any]] = {}
    services = {"slug": {"any_": [Service.get_block_type_slug()]}}
    with get_client(sync_client=True) as client:
        while True:
            page = {"block_types": services, "limit": PAGE, "offset": len(found)}
            answer = client._client.post("/block_documents/filter", json=page)
            documents = answer.raise_for_status().json()
            found |= {document["name"]: document["data"]["profile"] for document in documents}
            if len(documents) < PAGE:
                break
    profiles = []
    for name in sorted(found):
        try:
            profiles.append(_validated(json.dumps(found[name])))
        except ValidationError as error:
            log.error("service %s is left out: %s; `incident service add FILE` mends it", name, error)
    return profiles


@functools.lru_cache(maxsize=1_000)
def _validated(text: str) -> Profile:
    # All of them are read every two seconds, and hardly one has changed.
    return Profile.model_validate(json.loads(text))


def load_profile(name: str) -> Profile:
    """The saved profile. Raises `PermanentError` when there is none of that name."""
    return _load(Service, name).read()


def load_ssh(name: str) -> SSHCredentials:
    """The service's SSH access. Raises `PermanentError` when it is not saved."""
    return _load(SSHCredentials, name)


def load_pagerduty(name: str) -> "PagerDuty":
    """The service's PagerDuty access. Raises `PermanentError` when it is not saved."""
    from blocks.pagerduty import PagerDuty

    return _load(PagerDuty, name)


def load_slack(name: str) -> "Slack":
    """The service's Slack access. Raises `PermanentError` when it is not saved."""
    from blocks.slack import Slack

    return _load(Slack, name)


def load_statuspage(name: str) -> "Statuspage":
    """The service's status page. Raises `PermanentError` when it is not saved."""
    from blocks.statuspage import Statuspage

    return _load(Statuspage, name)


def load_tickets(name: str) -> "GitHub":
    """The service's tickets. Raises `PermanentError` when they are not saved."""
    from blocks.github import GitHub

    return _load(GitHub, name)


def _load(kind: type[Kind], name: str) -> Kind:
    try:
        # Flows are asynchronous, and there Prefect would hand out a coroutine of its own accord.
        block = cast(Kind, kind.load(name, _sync=True))  # type: ignore[call-arg]
    except ValueError as error:
        raise PermanentError(
            f"no {kind._block_type_name} is saved as {name!r}; `incident service add FILE` saves it, "
            "`incident service list` shows what there is",
            page="docs/how-to.md#add-a-service",
        ) from error
    know(*secrets_of(block))
    return block


def secrets_of(block: Block) -> list[str]:
    """The values of the block's secret fields."""
    held = [field.get_secret_value() for _, field in block if isinstance(field, Secret | SecretStr)]
    return [str(value) for each in held for value in (each.values() if isinstance(each, dict) else [each])]


def _ssh(profile: Profile, secrets: Mapping[str, str]) -> SSHCredentials:
    return SSHCredentials(
        user=profile.ssh.user,
        private_key=SecretStr(secrets[profile.ssh.private_key]) if profile.ssh.private_key else None,
        agent=profile.ssh.agent,
        jump=profile.ssh.jump,
        known_hosts=profile.ssh.known_hosts,
        connect_timeout_s=profile.ssh.connect_timeout_s,
    )
