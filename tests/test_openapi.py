"""The HTTP door against its own description: whatever fits it is answered as it says, and breaks nothing."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from responder.receiver import access
from responder.receiver.alerts import SECRETS
from responder.store import Store
from tests.test_receiver import served


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The door of an empty store, and the token of a person."""
    with (
        pytest.MonkeyPatch.context() as patch,
        closing(Store(f"sqlite:///{tmp_path_factory.mktemp('api')}/incidents.db")) as store,
    ):
        patch.setenv(SECRETS, "a-secret")
        patch.setattr(access, "GUESSES", 10**9)
        store.migrate()
        with served(store) as (url, application):
            found = schemathesis.openapi.from_dict(application.openapi())
            found.config.update(base_url=url, headers={"Authorization": f"Bearer {store.add_token('robin')[1]}"})
            yield found


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_every_route_keeps_to_its_description(api: Any, method: str) -> None:
    operations = [found.ok() for found in api.get_all_operations()]
    chosen = [operation for operation in operations if operation.method.upper() == method]
    assert chosen
    for operation in chosen:

        @settings(max_examples=20, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy())
        def keeps_to_it(case: Any) -> None:
            case.call_and_validate(
                checks=[not_a_server_error, status_code_conformance, response_schema_conformance]
            )

        keeps_to_it()
