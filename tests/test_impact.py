"""How many are affected: counted between readings, at least where some were not counted, never a guess."""

from datetime import timedelta

from factories import NOON, profile
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.evidence import Dossier, Evidence
from responder.domain.impact import affected, count, measured_impact
from responder.domain.notes import Notes
from responder.domain.observations import note_impact
from responder.domain.parsing.metrics import parse_metrics

METRICS = {
    "url": "http://localhost/metrics",
    "requests": "shop_requests_total",
    "errors": "shop_requests_total",
    "errors_where": {"status": "5.."},
    "latency": "shop_latency_seconds",
}


def look(
    minute: int, total: float | None, failed: float | None, host: str = "gw-1", clients=None
) -> list[Evidence]:
    at = NOON + timedelta(minutes=minute)
    figures = {"impact.requests": total, "impact.failed": failed}
    figures |= {} if clients is None else {"impact.clients": clients}
    return [
        Evidence(id="e", key=key, host=host, at=at, how="x", value=v, unknown="refused" if v is None else None)
        for key, v in figures.items()
    ]


def dossier(*looks: list[Evidence]) -> Dossier:
    return Dossier(evidence=tuple(evidence for found in looks for evidence in found))


def requests(*looks: list[Evidence]) -> str | None:
    return affected(dossier(*looks))["requests-failed"]


def test_requests_are_counted_from_the_first_reading_to_the_last_over_all_hosts():
    looks = (look(0, 1000, 10), look(3, 100, 0, "gw-2"), look(5, 1400, 50), look(8, 200, 5, "gw-2"))
    assert requests(*looks) == "45 of 500 requests failed since 12:00 UTC"


def test_a_counter_that_began_anew_counts_from_zero_and_the_figure_is_a_lower_bound():
    assert requests(look(0, 1000, 10), look(5, 1400, 50), look(8, 60, 2)) == (
        "at least 42 of 460 requests failed since 12:00 UTC"
    )


def test_one_reading_or_no_traffic_tells_nothing():
    assert requests(look(0, 1000, 10)) is None
    assert requests(look(0, 1000, 10), look(5, 1000, 10)) is None


def test_a_service_that_was_down_and_counted_nothing_is_not_said_to_have_failed_nobody():
    assert requests(look(0, None, None), look(5, 100, 0), look(6, 200, 0)) is None
    assert requests(look(0, None, None), look(5, 100, 0), look(6, 200, 3)) == (
        "at least 3 of 100 requests failed since 12:05 UTC"
    )


def test_more_failed_than_asked_belongs_to_other_requests():
    assert requests(look(0, 100, 0), look(5, 110, 40)) is None


def test_clients_are_the_most_that_were_connected_on_each_host():
    seen = dossier(look(0, 1, 0, clients=40), look(1, 1, 0, "gw-2", clients=2), look(5, 1, 0, clients=0))
    assert affected(seen)["clients-affected"] == "up to 42 clients were connected"


def test_a_reading_nobody_asked_for_is_neither_said_nor_missing():
    assert affected(Dossier()) == {}
    assert list(affected(dossier(look(0, None, None)))) == ["requests-failed"]


def test_notices_say_what_fails_now_beside_what_has_failed():
    share = Evidence(id="e9", key="metrics.error_share", host="gw-1", at=NOON, how="x", value=0.12)
    seen = dossier(look(0, 1000, 10), look(5, 1400, 50), [share])
    assert measured_impact(seen) == ("failing requests: 12.0% on gw-1; 40 of 400 requests failed since 12:00 UTC")
    assert measured_impact(Dossier()) is None


SCRAPE = """\
# TYPE shop_requests counter
shop_requests_total{status="200"} 90
shop_requests_total{status="502"} 7
shop_requests_total{status="503"} 3
# TYPE clients gauge
clients{kind="sse"} 4
clients{kind="ws"} 1
"""


def noted(text: str, **impact: object) -> dict[str, float | str | None]:
    shop = profile(
        impact=impact,
        endpoints={"health": {"url": "http://localhost/health", "present": ["ok"]}, "metrics": METRICS},
    )
    notes = Notes("gw-1", NOON)
    note_impact(notes, "http://x", parse_metrics(text), shop.impact, shop.endpoints.metrics)
    return {evidence.key: evidence.unknown or evidence.value for evidence in notes.evidence}


def test_the_profile_names_the_readings_and_metrics_stand_in_for_those_it_leaves_out():
    assert noted(SCRAPE) == {"impact.requests": 100, "impact.failed": 10}
    assert noted(SCRAPE, clients="clients", failed="shop_requests_total", failed_where={"status": "502"}) == {
        "impact.requests": 100,
        "impact.failed": 7,
        "impact.clients": 5,
    }


def test_a_reading_that_is_not_there_is_unknown_with_its_reason():
    found = noted(SCRAPE, clients="sessions", failed="shop_requests_total", failed_where={"state": "502"})
    assert found["impact.clients"] == "no metric 'sessions'"
    assert found["impact.failed"] == "shop_requests_total has no label 'state'"
    assert noted("<html>")["impact.requests"] not in (0, None)


COUNTS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.booleans()), min_size=2, max_size=20)


@given(COUNTS)
def test_what_is_counted_is_never_more_than_what_happened(steps):
    """Each step: so many succeed, so many fail, and the process may be restarted before it is read."""
    total = failed = true_total = true_failed = 0
    looks = [look(0, 0, 0)]
    for minute, (fine, bad, restarted) in enumerate(steps, start=1):
        true_total, true_failed = true_total + fine + bad, true_failed + bad
        total, failed = (0, 0) if restarted else (total + fine + bad, failed + bad)
        looks.append(look(minute, total, failed))
    found = count(dossier(*looks))
    if found:
        assert 0 <= found.failed <= found.total <= true_total
        assert found.failed <= true_failed
        assert (
            found.at_least
            or (found.failed, found.total) == (true_failed, true_total)
            or any(restarted for *_, restarted in steps)
        )
