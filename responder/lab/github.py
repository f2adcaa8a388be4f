"""A stand-in for GitHub's REST API: what our block uses of it, for one repository."""

import copy
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from responder.domain.base import now
from responder.lab.http import Answer, Request, StandIn


@dataclass
class Comment:
    """One comment on a ticket."""

    at: datetime
    body: str


@dataclass
class Issue:
    """One ticket."""

    number: int
    title: str
    body: str
    labels: list[str]
    assignees: list[str]
    at: datetime
    state: str = "open"
    comments: list[Comment] = field(default_factory=list)
    searchable: bool = True


class GitHubStandIn(StandIn):
    """One repository. All state is in memory and may be read at any time.

    `indexed` says whether the search knows an issue that is opened from now on.
    """

    def __init__(self, *, repository: str = "lab/tickets", people: tuple[str, ...] = ("lab-oncall",)) -> None:
        super().__init__()
        self.token = f"ghp_{secrets.token_hex(18)}"
        self.repository, self.people, self.indexed = repository, people, True
        self._issues: list[Issue] = []

    def settings(self) -> dict[str, Any]:
        """The fields of a GitHub block that speaks to this stand-in."""
        return {"token": self.token, "repository": self.repository, "base_url": self.url}

    @property
    def issues(self) -> list[Issue]:
        """All issues, oldest first, as copies."""
        with self.lock:
            return copy.deepcopy(self._issues)

    def add_issue(self, title: str, body: str = "") -> int:
        """An issue that somebody else has opened; its number."""
        with self.lock:
            return self._open({"title": title, "body": body}).number

    def close(self, number: int) -> None:
        """Somebody closes an issue."""
        with self.lock:
            self._issues[number - 1].state = "closed"

    def refusal(self, status: int) -> Answer:
        """GitHub's wording."""
        words = {
            400: "Problems parsing JSON",
            401: "Bad credentials",
            403: "Resource not accessible by personal access token",
            404: "Not Found",
            409: "Conflict",
            429: "You have exceeded a secondary rate limit",
            500: "Server Error",
        }
        return Answer(status, {"message": words[status], "documentation_url": "https://docs.github.com/rest"})

    def handle(self, request: Request) -> Answer:
        """Answer as GitHub does, the token checked first."""
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.refusal(401)
        owner, name = self.repository.split("/")
        body = request.json if isinstance(request.json, dict) else {}
        match request.method, request.path.strip("/").split("/"):
            case "GET", ["search", "issues"]:
                return self._search(request.param("q"))
            case "GET", ["repos", o, n, "issues"] if (o, n) == (owner, name):
                wanted = request.param("state", "open")
                found = [issue for issue in self._issues if wanted in ("all", issue.state)]
                return Answer(200, [self._json(i) for i in found[::-1][: int(request.param("per_page", "30"))]])
            case "POST", ["repos", o, n, "issues"] if (o, n) == (owner, name):
                if not body.get("title") or not set(body.get("assignees") or []) <= set(self.people):
                    return Answer(422, {"message": "Validation Failed", "errors": []})
                return Answer(201, self._json(self._open(body)))
            case verb, ["repos", o, n, "issues", number, "comments"] if (o, n) == (owner, name):
                return self._comments(verb, int(number), request, body)
        return self.refusal(404)

    def _open(self, fields: dict[str, Any]) -> Issue:
        issue = Issue(
            number=len(self._issues) + 1,
            title=fields["title"],
            body=fields.get("body") or "",
            labels=list(fields.get("labels") or []),
            assignees=list(fields.get("assignees") or []),
            at=now(),
            searchable=self.indexed,
        )
        self._issues.append(issue)
        return issue

    def _search(self, words: str) -> Answer:
        """The search goes by words; here the quoted ones must all be in the text."""
        quoted = re.findall(r"\w+", " ".join(re.findall(r'"([^"]*)"', words)).lower())
        found = [
            self._json(issue)
            for issue in self._issues[::-1]
            if issue.searchable
            and (issue.state == "open" or "is:open" not in words)
            and set(quoted) <= set(re.findall(r"\w+", issue.body.lower()))
        ]
        return Answer(200, {"total_count": len(found), "incomplete_results": False, "items": found})

    def _comments(self, verb: str, number: int, request: Request, body: dict[str, Any]) -> Answer:
        if not 1 <= number <= len(self._issues):
            return self.refusal(404)
        comments = self._issues[number - 1].comments
        if verb == "POST":
            if not body.get("body"):
                return Answer(422, {"message": "Validation Failed", "errors": []})
            comments.append(Comment(now(), body["body"]))
            return Answer(201, _comment(comments[-1]))
        since = request.param("since", "")
        return Answer(200, [_comment(comment) for comment in comments if _iso(comment.at) >= since])

    def _json(self, issue: Issue) -> dict[str, Any]:
        return {
            "number": issue.number,
            "title": issue.title,
            "body": issue.body,
            "state": issue.state,
            "labels": [{"name": label} for label in issue.labels],
            "assignees": [{"login": login} for login in issue.assignees],
            "html_url": f"https://github.com/{self.repository}/issues/{issue.number}",
            "created_at": _iso(issue.at),
        }


def _comment(comment: Comment) -> dict[str, Any]:
    return {"body": comment.body, "created_at": _iso(comment.at), "updated_at": _iso(comment.at)}


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
