"""GitHub: tickets as issues of one repository, through the REST API.

Source: docs.github.com, "REST API endpoints for issues". A ticket is known by a marker in its text, so that
what was found before is found again rather than doubled.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator

from blocks.rest import call, encrypted
from responder.domain.base import Frozen
from responder.domain.errors import IncidentResponseError, TransientError

TITLE_LIMIT = 256
"""Characters of an issue's title; more is refused."""

_PAGE = 100  # the most that one answer holds


class Issue(Frozen):
    """An issue."""

    number: int
    body: str
    url: str


class GitHub(Block):
    """One repository's issues."""

    _block_type_slug = "incident-github"
    _block_type_name = "Incident GitHub"
    _description = "A GitHub repository: keeps the follow-ups of incidents as issues."

    token: SecretStr = Field(description="Token that may read and write the repository's issues.")
    repository: str = Field(pattern=r"^[^/\s]+/[^/\s]+$", description="`owner/name`.")
    base_url: str = Field("https://api.github.com", description="REST API; Enterprise: https://HOST/api/v3.")
    timeout_s: float = Field(10, gt=0, le=60, description="Seconds for connecting and for each wait on data.")

    @field_validator("base_url")
    @classmethod
    def _encrypted(cls, url: str) -> str:
        return encrypted(url)

    def find(self, *markers: str, closed: bool = False) -> Issue | None:
        """The newest open issue (with `closed`, one in any state) whose text holds all `markers`, or None.

        The list is looked at first: the search learns of a new issue only some time after it was made.
        Raises TransientError and PermanentError. Source: "List repository issues", "Search issues".
        """
        newest: dict[str, str | int] = {"sort": "created", "direction": "desc", "per_page": _PAGE}
        newest["state"] = "all" if closed else "open"
        listed = self._issues(self._read("list the issues", self._issues_path, newest), markers)
        if listed:
            return listed[0]
        quoted = " ".join(f'"{marker}"' for marker in markers)
        words = f"{quoted} in:body repo:{self.repository} is:issue{'' if closed else ' is:open'}"
        found = self._read("search the issues", "search/issues", {"q": words, "per_page": _PAGE})
        hits = self._issues(found.get("items") if isinstance(found, dict) else None, markers)
        return hits[0] if hits else None

    def create(self, title: str, text: str, *, labels: Sequence[str], assignees: Sequence[str]) -> None:
        """Open an issue; `text` is Markdown and holds the marker that it is found by.

        Repeating opens a second one: `find` first. Raises TransientError, PermanentError and
        OutcomeUnknownError. Source: "Create an issue"; phase 5 of the document, "Create follow-up tickets".
        """
        body = {"title": title[:TITLE_LIMIT], "body": text, "labels": list(labels), "assignees": list(assignees)}
        self._call("open a ticket", "POST", self._issues_path, body=body)

    def comments(self, number: int, *, since: datetime) -> list[str]:
        """The first hundred comments that were written or changed since then.

        Raises TransientError and PermanentError. Source: "List issue comments".
        """
        params: dict[str, str | int] = {"since": f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", "per_page": _PAGE}
        what = f"read the comments of ticket {number}"
        answer = self._read(what, f"{self._issues_path}/{number}/comments", params)
        try:
            return [comment.get("body") or "" for comment in answer]
        except (TypeError, AttributeError) as error:
            raise TransientError(f"GitHub: could not {what}: unreadable answer: {error}") from error

    def comment(self, number: int, text: str) -> None:
        """Add a comment (Markdown). Repeating adds another: look into `comments` first.

        Raises TransientError, PermanentError and OutcomeUnknownError. Source: "Create an issue comment".
        """
        path = f"{self._issues_path}/{number}/comments"
        self._call(f"comment on ticket {number}", "POST", path, body={"body": text})

    def check(self) -> list[str]:
        """What would keep tickets from being opened, one sentence each; empty when all is well. Only reads.

        The right to write cannot be tried without writing. Source: "List repository issues".
        """
        try:
            self._read("list the issues", self._issues_path, {"per_page": 1})
        except IncidentResponseError as error:
            return [str(error)]
        return []

    @property
    def _issues_path(self) -> str:
        return f"repos/{self.repository}/issues"

    def _issues(self, answer: Any, markers: Sequence[str]) -> list[Issue]:
        """Those issues of an answer (pull requests are listed with them) that hold all the markers."""
        try:
            issues = [
                raw
                for raw in answer
                if "pull_request" not in raw and all(marker in (raw.get("body") or "") for marker in markers)
            ]
            return [Issue(number=raw["number"], body=raw["body"], url=raw["html_url"]) for raw in issues]
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise TransientError(f"GitHub: could not read the issues: unreadable answer: {error}") from error

    def _read(self, what: str, path: str, params: Mapping[str, str | int]) -> Any:
        return self._call(what, "GET", path, params=params)

    def _call(self, what: str, method: str, path: str, **request: Any) -> Any:
        return call(
            f"GitHub: could not {what}",
            method,
            f"{self.base_url}/{path}",
            headers={
                "Authorization": f"Bearer {self.token.get_secret_value()}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": "2022-11-28",
            },
            timeout_s=self.timeout_s,
            **request,
        )
