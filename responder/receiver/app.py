"""The application, the same under any ASGI server."""

import logging
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from responder.domain.base import Frozen
from responder.domain.errors import ConflictError, IncidentResponseError, NotFoundError, TransientError
from responder.receiver import alerts, people
from responder.receiver.access import Gate, Kept
from responder.receiver.bounds import BoundedBody
from responder.receiver.inbox import Inbox
from responder.receiver.metrics import Counted, Figures
from responder.store import Store

STATUS = {NotFoundError: 404, ConflictError: 409, TransientError: 503, IncidentResponseError: 422}
"""What an error of ours is told as: the first kind that it is."""
MOST_FAULTS = 5

log = logging.getLogger(__name__)
open_router = APIRouter()


class Problem(Frozen):
    """What went wrong, and what to do about it."""

    error: str
    see: str = Field("", description="The page of the documentation that helps, if there is one.")


class Health(Frozen):
    """That this process answers."""

    alive: bool


class Readiness(Frozen):
    """That the store answers, too."""

    ready: bool
    keeper: bool = Field(description="Whether a keeper was seen lately: without one, answers wait.")


def create_app(store: Store) -> FastAPI:
    """The HTTP door to this store."""
    app = FastAPI(
        title="Incident responder",
        description=people.__doc__ or "",
        version="1",
        # The description is behind the lock, too, and pages that load scripts from elsewhere are not offered.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        responses={503: {"model": Problem, "description": "The store does not answer; look before trying again."}},
    )
    app.state.store, app.state.gate = store, Gate()
    app.state.inbox, app.state.figures = Inbox(store), Figures(store)
    app.add_middleware(BoundedBody)
    app.add_middleware(Counted, figures=app.state.figures)
    app.include_router(open_router)
    app.include_router(
        alerts.router, responses={status: _problem(status) for status in (400, 401, 404, 408, 413, 422)}
    )
    app.include_router(people.router, responses={status: _problem(status) for status in _TOLD})
    app.add_exception_handler(IncidentResponseError, _ours)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    for kind in (OperationalError, InterfaceError, PoolTimeoutError):
        app.add_exception_handler(kind, _store_is_silent)
    app.add_exception_handler(Exception, _unforeseen)
    return app


@open_router.get("/healthz")
def healthz() -> Health:
    """Whether this process answers. Open to everybody."""
    return Health(alive=True)


@open_router.get("/readyz")
def readyz(store: Kept) -> Readiness:
    """Whether the store answers, too. Open to everybody."""
    return Readiness(ready=True, keeper=store.keeper_alive())


@people.router.get("/openapi.json", include_in_schema=False)
def description(request: Request) -> dict[str, Any]:
    """This description."""
    return request.app.openapi()  # type: ignore[no-any-return]


_TOLD = {
    400: "The body is no JSON.",
    401: "No personal token, an unknown or a revoked one.",
    404: "There is nothing of that name.",
    408: "The body did not arrive.",
    409: "Somebody was quicker, or things have changed: look again.",
    413: "The body is too large.",
    422: "The request does not say what is needed.",
    429: "Too many wrong tokens from this address.",
}


def _problem(status: int) -> dict[str, Any]:
    return {"model": Problem, "description": _TOLD[status]}


def _answer(status: int, error: str, *, see: str = "", headers: Any = None) -> JSONResponse:
    return JSONResponse(Problem(error=error, see=see).model_dump(), status, headers)


async def _ours(_: Request, error: Any) -> JSONResponse:
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    return _answer(status, str(error), see=error.page)


async def _refused(_: Request, error: Any) -> JSONResponse:
    return _answer(error.status_code, str(error.detail), headers=error.headers)


async def _malformed(_: Request, error: Any) -> JSONResponse:
    # Without what was put in: it may be a secret in the wrong place.
    faults = [f"{'.'.join(map(str, fault['loc']))[:100]}: {fault['msg']}" for fault in error.errors()]
    return _answer(422, "; ".join(faults[:MOST_FAULTS]))


async def _store_is_silent(_: Request, error: Any) -> JSONResponse:
    log.warning("the store does not answer: %s", error)
    return _answer(
        503,
        "the store does not answer; look whether it was taken in before you try again",
        headers={"Retry-After": "5"},
    )


async def _unforeseen(_: Request, __: Any) -> JSONResponse:
    return _answer(500, "this is a fault of the responder; its log says more")
