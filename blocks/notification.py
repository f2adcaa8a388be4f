"""Stakeholders by whatever Prefect's notification blocks reach: e-mail, Teams, a webhook and many more.

Source: Prefect, "Notification blocks"; Apprise, "URL basics".
"""

from contextvars import ContextVar
from email.utils import make_msgid
from typing import Any, cast

import apprise.plugins.email.base
import httpx
from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.blocks.core import Block
from prefect.blocks.notifications import (
    AbstractAppriseNotificationBlock,
    AppriseNotificationBlock,
    CustomWebhookNotificationBlock,
)
from pydantic import Field, SecretStr

from blocks.service import secrets_of
from responder.domain.errors import DeniedError, OutcomeUnknownError, PermanentError, TransientError
from responder.domain.redaction import clipped, know

_LOG_LIMIT = 300
_PAGE = "docs/how-to.md#tell-somebody-through-another-channel"
_key: ContextVar[str | None] = ContextVar("_key", default=None)


class Notification(AppriseNotificationBlock):
    """Anything that Apprise reaches by one URL, e-mail for example."""

    _block_type_slug = "incident-notification"
    _block_type_name = "Incident notification"
    _description = "A way to stakeholders that Apprise knows, like e-mail."

    url: SecretStr = Field(
        description="Apprise URL, with its password.",
        examples=["mailtos://user:password@smtp.example.com?from=incidents@example.com&to=sales@example.com"],
    )


def load_notification(reference: str) -> NotificationBlock:
    """The saved block that a profile names as `block-type/name`, like `custom-webhook/sales`.

    Raises `PermanentError` when none is saved by that name, or when it cannot notify anybody.
    """
    try:
        # Flows are asynchronous, and there Prefect would hand out a coroutine of its own accord.
        block = cast(Block, Block.load(reference, _sync=True))  # type: ignore[call-arg]
    except ValueError as error:
        raise PermanentError(
            f"no block is saved as {reference!r}; `prefect block ls` shows what there is", page=_PAGE
        ) from error
    if not isinstance(block, NotificationBlock):
        raise PermanentError(
            f"the block {reference!r} cannot notify anybody; name a notification block", page=_PAGE
        )
    know(*secrets_of(block))
    return prepared(block)


def prepared(block: NotificationBlock) -> NotificationBlock:
    """The block set up to send plain text, as `notify` wants it."""
    if isinstance(block, AbstractAppriseNotificationBlock):
        # Else Apprise takes the text for whatever format the way has, and values could bring HTML into a mail.
        asset: Any = block._apprise_client.asset
        asset.body_format = "text"
        asset.async_mode = False  # several addresses in one block: threads of its own would not know the key
    return block


def notify(block: NotificationBlock, subject: str, text: str, *, key: str) -> None:
    """Tell whoever the block reaches. Repeating tells again, under the same `key` so that it can be known:

    the Message-ID of an e-mail, a webhook's header Idempotency-Key (IETF, draft-ietf-httpapi-idempotency-key).
    Raises TransientError, PermanentError and OutcomeUnknownError, none of which repeats a webhook's address:
    it is a secret.
    """
    kind = block.get_block_type_slug()
    if isinstance(block, CustomWebhookNotificationBlock):
        block = block.model_copy(update={"headers": {**(block.headers or {}), "Idempotency-Key": f'"{key}"'}})
    known_by = _key.set(key)
    try:
        with block.raise_on_failure():
            cast(Any, block).notify(text, subject=subject, _sync=True)
    except NotificationError as error:
        said = clipped(" ".join(error.log.split()), _LOG_LIMIT)
        raise TransientError(f"{kind}: could not notify: {said or 'no reason given'}") from error
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        problem = f"{kind}: could not notify: HTTP {status}"
        if status in (409, 429) or status >= 500:  # 409: by the draft, what has this key is still at work
            raise TransientError(problem) from None
        raise (DeniedError if status in (401, 403, 404) else PermanentError)(problem) from None
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise TransientError(f"{kind}: could not notify: {type(error).__name__}") from None
    except httpx.HTTPError as error:
        raise OutcomeUnknownError(f"{kind}: could not notify: {type(error).__name__}") from None
    except (ValueError, KeyError) as error:  # an address that is none, a placeholder without a value
        raise PermanentError(f"{kind}: could not notify: {type(error).__name__}") from None
    finally:
        _key.reset(known_by)


def _message_id(idstring: str | None = None, domain: str | None = None) -> str:
    key = _key.get()
    return f"<{key}@{domain}>" if key else make_msgid(idstring, domain)


setattr(apprise.plugins.email.base, "make_msgid", _message_id)  # noqa: B010  # Apprise gives no other way to it
