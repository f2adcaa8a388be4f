"""Statuspage: what customers read of an incident, through the REST API.

Source: developer.statuspage.io. An incident of ours is known by our own id in its metadata, and each text by its
tag there, which changes with it: a call whose answer was lost can be repeated without a second post. Look first,
then write.
"""

from collections.abc import Collection, Mapping
from typing import Any

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator

from blocks.rest import call, encrypted
from responder.domain.base import Frozen
from responder.domain.errors import IncidentResponseError, TransientError

NAME_LIMIT = 255
"""Characters of an incident's name ("Create an incident")."""

_OWNER = "incident_responder"
_MOST_LOOKED_AT = 100


class PublicIncident(Frozen):
    """An incident as the page shows it: `updates` are its texts, the newest first; `tags` those we gave them.

    `metadata` is all of it, others' as well.
    """

    id: str
    status: str
    updates: tuple[str, ...] = ()
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of the texts that we have published."""
        return tuple(str(self.metadata[_OWNER].get("tags") or "").split()) if _OWNER in self.metadata else ()

    @property
    def open(self) -> bool:
        """Whether it is still shown as going on."""
        return self.status not in ("resolved", "postmortem")

    def says(self, text: str) -> bool:
        """Whether this very text was published already, however its white space was changed."""
        return " ".join(text.split()) in (" ".join(update.split()) for update in self.updates)


class Statuspage(Block):
    """One status page."""

    _block_type_slug = "incident-statuspage"
    _block_type_name = "Incident Statuspage"
    _description = "A status page: publishes incidents, their updates and the state of components."

    api_token: SecretStr = Field(description="API key of a user who may edit the page.")
    page_id: str = Field(description="Id of the page.")
    component_ids: list[str] = Field(default_factory=list, description="Components that `check` looks for.")
    base_url: str = Field("https://api.statuspage.io/v1", description="Base URL of the API.")
    timeout_s: float = Field(10, gt=0, le=60, description="Seconds for connecting and for each wait on data.")

    @field_validator("base_url")
    @classmethod
    def _encrypted(cls, url: str) -> str:
        return encrypted(url)

    def find(self, key: str) -> PublicIncident | None:
        """The incident that `create` made for `key`, among the page's newest hundred, or None.

        Raises TransientError and PermanentError. Source: "Get a list of incidents".
        """
        what = "look for the incident"
        answer = self._call(what, "GET", "incidents", params={"limit": _MOST_LOOKED_AT})
        try:
            mine = (raw for raw in answer if ((raw.get("metadata") or {}).get(_OWNER) or {}).get("id") == key)
            return next(map(_incident, mine), None)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise TransientError(f"Statuspage: could not {what}: unreadable answer: {error}") from error

    def create(
        self,
        key: str,
        name: str,
        *,
        status: str,
        text: str,
        impact: str,
        components: Mapping[str, str],
        tags: Collection[str] = (),
    ) -> None:
        """Publish an incident; `components` maps a component's id to its new status, `tags` name the text.

        Repeating publishes a second one: `find` by `key` first. Raises TransientError, PermanentError and
        OutcomeUnknownError. Source: "Create an incident".
        """
        fields = {
            "name": name[:NAME_LIMIT],
            "impact_override": impact,
            "metadata": {_OWNER: {"id": key, "tags": " ".join(tags)}},
            **_state(status, text, components),
        }
        self._call("publish the incident", "POST", "incidents", body={"incident": fields})

    def update(
        self,
        shown: PublicIncident,
        *,
        status: str,
        text: str,
        components: Mapping[str, str],
        tags: Collection[str] = (),
    ) -> None:
        """Publish an update of an incident that `find` has shown, its end as well; the rest as in `create`.

        Repeating publishes it again: see `PublicIncident.tags`. Raises TransientError, PermanentError and
        OutcomeUnknownError. Source: "Update an incident"; phase 4 of the document, "Update status page".
        """
        ours = {**shown.metadata[_OWNER], "tags": " ".join([*shown.tags, *tags])}
        fields = {"metadata": {**shown.metadata, _OWNER: ours}, **_state(status, text, components)}
        self._call("update the incident", "PATCH", f"incidents/{shown.id}", body={"incident": fields})

    def check(self) -> list[str]:
        """What would keep posts from appearing, one sentence each; empty when all is well. Only reads.

        The right to write cannot be tried without writing. Source: "Get a list of components".
        """
        try:
            answer = self._call("read the page's components", "GET", "components", params={"per_page": 100})
        except IncidentResponseError as error:
            return [str(error)]
        known = {raw.get("id") for raw in answer if isinstance(raw, dict)} if isinstance(answer, list) else set()
        return [f"Statuspage: the page has no component {id}" for id in self.component_ids if id not in known]

    def _call(self, what: str, method: str, path: str, **request: Any) -> Any:
        return call(
            f"Statuspage: could not {what}",
            method,
            f"{self.base_url}/pages/{self.page_id}/{path}",
            headers={"Authorization": f"OAuth {self.api_token.get_secret_value()}"},
            timeout_s=self.timeout_s,
            **request,
        )


def _state(status: str, text: str, components: Mapping[str, str]) -> dict[str, Any]:
    changed = {"components": dict(components), "component_ids": list(components)} if components else {}
    return {"status": status, "body": text, **changed}


def _incident(raw: Mapping[str, Any]) -> PublicIncident:
    updates = tuple(update.get("body") or "" for update in raw.get("incident_updates") or [])
    return PublicIncident(id=raw["id"], status=raw["status"], updates=updates, metadata=raw["metadata"])
