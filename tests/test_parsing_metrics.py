import math
import re
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from pydantic import ValidationError

from responder.domain.parsing.metrics import MetricNames, ServiceRates, compare, parse_metrics

NAMES = MetricNames(
    requests="veloz_http_requests_total",
    errors="veloz_http_requests_total",
    errors_where={"status": "5.."},
    latency="veloz_http_request_duration_seconds",
    running="veloz_engine_running",
)
ANOTHER_COUNTER = NAMES.model_copy(update={"errors": "veloz_errors_total", "errors_where": {}})
DECLARED = "# TYPE d histogram\nup 1\n"


class Service:
    """What a service with the real client library exports."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("veloz_http_requests", "Requests.", ["endpoint", "status"], registry=self.registry)
        self.errors = Counter("veloz_errors", "Errors.", ["type"], registry=self.registry)
        self.latency = Histogram(
            "veloz_http_request_duration_seconds",
            "Latency.",
            ["endpoint"],
            registry=self.registry,
            buckets=(0.1, 0.5, 1.0),
        )
        self.running = Gauge("veloz_engine_running", "Engine.", registry=self.registry)

    def serve(self, times: int, status: int = 200, seconds: float = 0.05, endpoint: str = "/api") -> None:
        for _ in range(times):
            self.requests.labels(endpoint, str(status)).inc()
            self.latency.labels(endpoint).observe(seconds)

    def text(self) -> str:
        return generate_latest(self.registry).decode()


def between(first: str, second: str, elapsed_s: float = 2.0, names: MetricNames = NAMES) -> ServiceRates:
    return compare(parse_metrics(first), parse_metrics(second), elapsed_s, names)


def problems(rates: ServiceRates) -> Mapping[str, str]:
    return {name: measure.problem for name, measure in rates if measure is not None and measure.problem}


def histogram(*counts: float, name: str = "d_bucket", bounds: tuple[str, ...] = ("0.1", "1", "+Inf")) -> str:
    return "".join(f'{name}{{le="{bound}"}} {count}\n' for bound, count in zip(bounds, counts, strict=True))


def latency(first: str, second: str) -> ServiceRates:
    return between(first, second, names=MetricNames(requests="r", errors="r", latency="d"))


def test_rates_and_quantiles_of_a_real_client_are_computed() -> None:
    service = Service()
    service.serve(1000, status=500, seconds=5)
    service.running.set(1)
    first = service.text()
    service.serve(90, seconds=0.05)
    service.serve(10, status=503, seconds=0.4, endpoint="/other")
    rates = between(first, service.text())
    assert problems(rates) == {}
    assert (rates.requests_per_s.value, rates.errors_per_s.value) == (50, 5)
    assert rates.error_share.value == 0.1
    assert rates.latency_p50_s.value == pytest.approx(0.1 * 50 / 90)
    assert rates.latency_p90_s.value == pytest.approx(0.1)
    assert rates.latency_p99_s.value == pytest.approx(0.1 + 0.4 * 0.9)
    assert rates.running is not None
    assert rates.running.value == 1


def test_openmetrics_with_exemplars_is_read_as_well() -> None:
    service = Service()
    service.serve(10)
    service.requests.labels("/api", "200").inc(1, {"trace_id": "abc"})
    first = generate_openmetrics(service.registry).decode()
    service.serve(10)
    assert "# {" in first
    assert between(first, generate_openmetrics(service.registry).decode()).requests_per_s.value == 5


def test_a_quantile_beyond_the_last_bound_says_at_least() -> None:
    service = Service()
    first = service.text()
    service.serve(10, seconds=30)
    p99 = between(first, service.text()).latency_p99_s
    assert (p99.value, p99.at_least) == (1.0, True)


@pytest.mark.parametrize("ending", ["", "_total"])
def test_a_counter_is_found_with_and_without_its_ending(ending: str) -> None:
    names = MetricNames(requests=f"r{ending}", errors=f"r{ending}", latency="d_bucket")
    for text in ("r {}\n", "r_total {}\n", "# TYPE r counter\nr {}\n", "# TYPE r_total counter\nr_total {}\n"):
        rates = between(text.format(1), text.format(5), names=names)
        assert rates.requests_per_s.value == 2


def test_labels_that_appear_at_their_first_use_began_at_zero() -> None:
    service = Service()
    first = service.text()
    service.serve(4, status=500)
    rates = between(first, service.text())
    assert (rates.requests_per_s.value, rates.error_share.value) == (2, 1)


def test_an_error_counter_that_was_never_used_means_no_errors() -> None:
    service = Service()
    first = service.text()
    service.serve(4)
    assert between(first, service.text(), names=ANOTHER_COUNTER).error_share.value == 0


def test_no_traffic_is_not_no_errors() -> None:
    service = Service()
    service.serve(10)
    rates = between(service.text(), service.text())
    assert rates.requests_per_s.value == 0
    for measure in (rates.errors_per_s, rates.error_share, rates.latency_p50_s, rates.latency_p99_s):
        assert measure.value is None
        assert "no traffic" in (measure.problem or "")


def test_a_family_that_is_missing_is_unknown() -> None:
    rates = between("other 1\n", "other 2\n")
    assert set(problems(rates)) == set(ServiceRates.model_fields)
    assert "veloz_http_requests_total" in (rates.requests_per_s.problem or "")


def test_a_label_that_no_series_has_is_not_no_errors() -> None:
    service = Service()
    service.serve(1)
    first = service.text()
    service.serve(4)
    names = NAMES.model_copy(update={"errors_where": {"code": re.compile("5..")}})
    rates = between(first, service.text(), names=names)
    assert "no label 'code'" in (rates.error_share.problem or "")


def test_a_counter_that_went_back_is_a_restart_and_unknown() -> None:
    service, restarted = Service(), Service()
    service.serve(10)
    restarted.serve(3)
    rates = between(service.text(), restarted.text())
    assert all("restarted" in problem for name, problem in problems(rates).items())
    assert len(problems(rates)) == len(ServiceRates.model_fields) - 1  # the gauge needs one scrape only


def test_a_series_that_vanished_is_a_restart_and_unknown() -> None:
    text = 'veloz_http_requests_total{{status="{}"}} 5\n'
    rates = between(text.format(200) + text.format(500), text.format(200))
    assert "restarted" in (rates.requests_per_s.problem or "")


def test_more_errors_than_requests_is_unknown() -> None:
    rates = between("r 1\ne 1\n", "r 2\ne 9\n", names=MetricNames(requests="r", errors="e", latency="d"))
    assert rates.error_share.value is None
    assert rates.errors_per_s.value == 4


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "-Inf", "1e300"])
def test_a_value_that_no_counter_can_have_is_unknown(value: str) -> None:
    rates = between("r 1\n", f"r {value}\n", names=MetricNames(requests="r", errors="r", latency="d", running="r"))
    assert rates.requests_per_s.value is None
    assert rates.requests_per_s.problem


def test_a_series_that_appears_twice_is_unknown_and_the_others_are_not() -> None:
    names = MetricNames(requests="r", errors="r", latency="d", running="up")
    rates = between("r 1\nup 1\n", "r 2\nr 3\nup 1\n", names=names)
    assert rates.requests_per_s.value is None
    assert rates.running is not None
    assert rates.running.value == 1


@pytest.mark.parametrize("elapsed_s", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_needs_time_to_pass(elapsed_s: float) -> None:
    service = Service()
    first = service.text()
    service.serve(1, status=500)
    rates = between(first, service.text(), elapsed_s)
    assert rates.requests_per_s.value is None
    assert rates.error_share.value == 1


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (histogram(9, 5, 10), "not cumulative"),
        (histogram(1, 2, bounds=("0.1", "1")), "+Inf"),
        (histogram(3, bounds=("+Inf",)), "+Inf"),
        (histogram(1, 2, bounds=("fast", "+Inf")), "'fast'"),
        (histogram(1, 2, bounds=("NaN", "+Inf")), "'NaN'"),
        (histogram(1, 2, bounds=("-Inf", "+Inf")), "'-Inf'"),
        (histogram(1, 2, 3, bounds=("-1e308", "1e308", "+Inf")), "'-1e308'"),
        ('d_bucket{a="1",le="1"} 1\nd_bucket{a="1",le="+Inf"} 1\nd_bucket{a="2",le="+Inf"} 1\n', "different"),
        ("d 5\n", "bound"),
    ],
)
def test_a_histogram_that_is_none_is_unknown(second: str, said: str) -> None:
    measure = latency("d 0\n" if second == "d 5\n" else DECLARED, second).latency_p50_s
    assert measure.value is None
    assert said in (measure.problem or "")


def test_a_lowest_bound_below_zero_is_its_own_quantile() -> None:
    second = histogram(10, 10, 10, bounds=("-1", "1", "+Inf"))
    assert latency(DECLARED, second).latency_p50_s.value == -1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# Prometheus client library is not installed\n",
        "<!doctype html><html><body>VeloZ</body></html>",
        '{"ok": true}',
        "r 1\nr{ 2\n",
        "r one\n",
        'r{a="1",a="2"} 1\n',
        "r " + "9" * 500 + "\n",
        "r" * 10_000 + " 1\n",
        "\x00\xff garbage \n\n 1",
        "# HELP r x\n" + "r 1\n" * 600_000,
        "".join(f"r{n} 1\n" for n in range(60_000)),
    ],
)
def test_what_are_no_metrics_is_a_problem_in_both_scrapes(text: str) -> None:
    parsed = parse_metrics(text)
    assert parsed.value is None
    assert parsed.problem
    assert len(parsed.problem) < 400
    good = Service().text()
    for rates in (between(text, good), between(good, text)):
        assert set(problems(rates).values()) == {parsed.problem}


def test_a_pattern_that_is_none_is_refused_with_the_names() -> None:
    with pytest.raises(ValidationError, match="errors_where"):
        MetricNames(requests="r", errors="r", latency="d", errors_where={"status": "("})


@given(st.text(alphabet='r_d{}",=\\\n# +-1eInfNaTYPE\t;', max_size=60))
def test_whatever_is_exported_gives_samples_or_a_problem(text: str) -> None:
    for parsed in (
        parse_metrics(text),
        parse_metrics(f"r{{{text}"),
        parse_metrics(f'# TYPE r counter\nr{{a="{text}'),
    ):
        assert parsed.value is not None or parsed.problem


@given(st.lists(st.sampled_from([0.01, 0.2, 0.7, 3.0]), min_size=1, max_size=60))
def test_quantiles_lie_in_the_bucket_of_the_observation(observed: list[float]) -> None:
    service = Service()
    first = service.text()
    for seconds in observed:
        service.latency.labels("/api").observe(seconds)
    rates = between(first, service.text())
    bounds = [0.0, 0.1, 0.5, 1.0, math.inf]
    for quantile, measure in ((0.5, rates.latency_p50_s), (0.99, rates.latency_p99_s)):
        truth = sorted(observed)[math.ceil(quantile * len(observed)) - 1]
        upper = next(bound for bound in bounds if truth <= bound)
        lower = bounds[bounds.index(upper) - 1]
        assert measure.value is not None
        assert lower <= measure.value <= min(upper, 1.0)
        assert measure.at_least == (upper == math.inf)


@pytest.mark.parametrize(
    "piece", ['r{a="' + '\\"' * 4000 + '"} 1\n', 'r{a="' + "\\" * 8000 + '"} 1\n', "{" * 8000 + "\n", '"']
)
def test_hostile_metrics_take_bounded_time(piece: str) -> None:
    began = time.process_time()
    parse_metrics(piece * (500_000 // len(piece)))
    parse_metrics(piece * (10_000_000 // len(piece)))
    assert time.process_time() - began < 5
