"""The canary on the session's installation: through a real door to a healthy lab, and where it must not go."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.client.schemas.objects import State
from pydantic import SecretStr

from blocks.receiver import CANARY, Receiver
from flows.canary import canary
from responder.domain.base import now
from responder.domain.canary import Canary, CanaryReport
from responder.domain.incident import Outcome
from responder.domain.webhooks import AlertmanagerWebhook, from_alertmanager
from responder.installation import Installation
from responder.store import Store
from tests.lab_runs import broken_lab, save_unreachable, start_run, wait_opened
from tests.stories import patient
from tests.test_receiver import served


@pytest.fixture
def door(installation: Installation, store: Store) -> Iterator[None]:
    """The HTTP door, and the block with which the canary gets in."""
    assert installation
    with served(store) as (url, _):
        _, token = store.add_token("canary", sends_alerts=True)
        Receiver(url=url, token=SecretStr(token)).save(CANARY, overwrite=True)
        yield


def sent(service: str, within_s: float = 300) -> State[CanaryReport]:
    return asyncio.run(canary(service, within_s=within_s, return_state=True))  # type: ignore[call-overload,no-any-return]


@pytest.mark.usefixtures("door")
def test_a_canary_goes_the_whole_way_and_says_how_long_each_station_took(store: Store, tmp_path: Path) -> None:
    with broken_lab("nothing-wrong", tmp_path, profile=patient) as lab:
        state = sent(lab.service)
        report = asyncio.run(state.aresult())
        assert (state.name, report.outcome) == ("Completed", Outcome.FALSE_ALARM)
        stations = (report.accepted_s, report.opened_s, report.first_line_s, report.ended_s)
        assert all(stations)
        assert list(stations) == sorted(stations)
        row = store.incident(report.incident_id)
        assert (row.severity, row.status) == ("P4", "closed")
        assert not lab.pagerduty.pages, "nobody is called for it"
        assert not lab.slack.messages


@pytest.mark.usefixtures("door")
def test_a_canary_joins_no_open_incident_and_goes_nowhere_where_people_would_be_paged_for_it(store: Store) -> None:
    service = save_unreachable("busy-with-something")
    row = wait_opened(store, start_run({"summary": "it is really down", "service": service}))
    refused = sent(service)
    assert (refused.type.value, f"incident {row.id}" in str(refused.message)) == ("FAILED", True)
    assert [alert.name for alert in store.alerts(row.id)] == []
    store.close_incident(row.id, who="test", why="seen")
    deaf = sent(save_unreachable("deaf", alerts={"match": {"service": "another"}}))
    assert (deaf.type.value, "do not fit `alerts.match`" in str(deaf.message)) == ("FAILED", True)


def test_a_canary_is_a_webhook_that_the_door_reads_and_its_end_belongs_to_it() -> None:
    one = Canary(service="shop", fingerprint="f", starts_at=now())
    firing, over = (
        from_alertmanager(AlertmanagerWebhook.model_validate(one.webhook(ends_at)), now())[0]
        for ends_at in (None, now() + timedelta(seconds=1))
    )
    assert (firing.alert.fingerprint, firing.alert.labels["service"], firing.alert.ends_at) == ("f", "shop", None)
    assert over.alert.ends_at
    assert over.alert.starts_at == firing.alert.starts_at == one.starts_at


def test_the_report_fails_where_the_incident_ended_as_no_false_alarm_does() -> None:
    def report(outcome: Outcome | None) -> CanaryReport:
        known = {"accepted_s": 0.01, "opened_s": 0.5, "acknowledged_s": None, "first_line_s": 2.0, "ended_s": 5.0}
        return CanaryReport(incident_id="abc", outcome=outcome, **known)  # type: ignore[arg-type]

    assert {outcome for outcome in [*Outcome, None] if report(outcome).arrived} == {
        Outcome.FALSE_ALARM,
        Outcome.NO_FAULT,
        Outcome.DRY_RUN,
    }
    assert "| its page acknowledged | – |" in report(None).table()
