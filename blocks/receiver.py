"""Our own HTTP door, spoken to as a monitoring system does. See `responder.receiver.alerts`."""

from collections.abc import Mapping
from typing import Any

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator

from blocks.rest import call, encrypted

CANARY = "incident-canary"
"""Name of the block with which the canary is sent; `incident up` saves it."""


class Receiver(Block):
    """The HTTP door and a token that may send alerts."""

    _block_type_slug = "incident-receiver"
    _block_type_name = "Incident receiver"
    _description = "The HTTP door of the incident responder, for alerts that we send to ourselves."

    url: str = Field(description="Its address.", examples=["http://127.0.0.1:4281"])
    token: SecretStr = Field(description="A sender's token: `incident token add NAME --sender`.")
    timeout_s: float = Field(10, gt=0, le=60, description="Seconds for connecting and for each wait on data.")

    @field_validator("url")
    @classmethod
    def _encrypted(cls, url: str) -> str:
        return encrypted(url)

    def send(self, webhook: Mapping[str, Any]) -> None:
        """Post a webhook of Alertmanager's; it is kept when this returns. Raises like `blocks.rest.call`."""
        call(
            "the HTTP door: send an alert",
            "POST",
            f"{self.url}/alerts/alertmanager",
            headers={"Authorization": f"Bearer {self.token.get_secret_value()}"},
            timeout_s=self.timeout_s,
            body=webhook,
        )
