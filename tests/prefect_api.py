"""Prefect's API over plain HTTP, as the page in a browser asks it once somebody has logged in."""

import os
from typing import Any
from uuid import uuid4

import httpx


def client(api_url: str | None = None, password: str | None = None) -> httpx.Client:
    """A client of the session's installation, or of another one, with its password.

    Without one (`""`) it is somebody who does not know it.
    """
    password = os.environ["PREFECT_API_AUTH_STRING"] if password is None else password
    user, _, secret = password.partition(":")
    return httpx.Client(
        base_url=api_url or os.environ["PREFECT_API_URL"],
        auth=(user, secret) if password else None,
        trust_env=False,
        timeout=60,
    )


def csrf_headers(knows: httpx.Client) -> dict[str, str]:
    """What a request that changes something must carry, besides the password."""
    name = str(uuid4())
    token = knows.get("/csrf-token", params={"client": name}).raise_for_status().json()["token"]
    return {"Prefect-Csrf-Client": name, "Prefect-Csrf-Token": token}


def post(path: str, body: Any) -> httpx.Response:
    """A POST to the session's installation by somebody who may."""
    with client() as knows:
        return knows.post(path, json=body, headers=csrf_headers(knows))
