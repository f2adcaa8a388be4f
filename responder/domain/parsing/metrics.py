"""Prometheus metrics: two scrapes and what happened between them.

Text format: prometheus.io/docs/instrumenting/exposition_formats. Quantiles as PromQL's histogram_quantile.
Names and label values come from the service and are data.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from pydantic import ConfigDict, Field

from responder.domain.base import Frozen
from responder.domain.parsing.parsed import Parsed, lines_of, shown

Labels = tuple[tuple[str, str], ...]

MAX_CHARACTERS = 2 * 1024 * 1024
_MAX_LINE = 8192
_MAX_SERIES = 50_000
_QUANTILES = (0.5, 0.9, 0.99)
_SUFFIXES = ("_total", "_bucket")
# Beyond this a counter or a bucket's bound is a mistake or an attack: sums and differences might overflow.
_MAX_FIGURE = 1e18
# Sums of floating-point increases may disagree in their last digits.
_TOLERANCE = 1e-9


class Samples(Frozen):
    """One scrape: values by sample name and labels. A series that appeared twice is NaN."""

    model_config = ConfigDict(allow_inf_nan=True)

    families: frozenset[str]
    """All names, with those that are declared but have no series yet: labels appear at their first use."""
    values: dict[str, dict[Labels, float]]


class MetricNames(Frozen):
    """Which families of a service mean what. Names are accepted with or without `_total` and `_bucket`."""

    requests: str = Field(description="Counter of requests.")
    errors: str = Field(description="Counter of failed requests; may be the same family, narrowed.")
    errors_where: dict[str, re.Pattern[str]] = Field(
        default_factory=dict,
        description="Labels (name: regular expression for the whole value) that make a request a failed one.",
    )
    latency: str = Field(description="Histogram of request latency in seconds.")
    running: str | None = Field(None, description="Gauge: 1 while the service's engine runs.")


class Measure(Frozen):
    """One figure, or None and the problem. `at_least`: the true figure lies above the histogram's last bound."""

    value: float | None = None
    problem: str | None = None
    at_least: bool = False


class ServiceRates(Frozen):
    """What happened between two scrapes. Shares are 0 to 1, latencies in seconds."""

    requests_per_s: Measure
    errors_per_s: Measure
    error_share: Measure
    latency_p50_s: Measure
    latency_p90_s: Measure
    latency_p99_s: Measure
    running: Measure | None = None
    """The smallest value of the gauge in the second scrape; None when no gauge is named."""


class _UnknownMeasureError(Exception):
    """Why a figure cannot be told. Does not leave this module."""


def parse_metrics(text: str, max_characters: int = MAX_CHARACTERS) -> Parsed[Samples]:
    """All samples of a scrape; one malformed line spoils it, because the rest of it cannot be trusted.

    Text longer than `max_characters`, HTML and a scrape without samples are problems.
    """
    if len(text) > max_characters:
        return Parsed(problem=f"more than {max_characters} characters of metrics")
    # The library's parser takes quadratic time for a single line.
    if any(len(line) > _MAX_LINE for line in lines_of(text, max_characters)):
        return Parsed(problem=f"a line of more than {_MAX_LINE} characters")
    families: set[str] = set()
    values: dict[str, dict[Labels, float]] = {}
    count = 0
    try:
        for family in text_string_to_metric_families(text):
            families.add(family.name)
            for sample in family.samples:
                count += 1
                if count > _MAX_SERIES:
                    return Parsed(problem=f"more than {_MAX_SERIES} series")
                series = values.setdefault(sample.name, {})
                labels = tuple(sorted(sample.labels.items()))
                series[labels] = math.nan if labels in series else float(sample.value)
    except (ValueError, IndexError, OverflowError) as error:
        return Parsed(problem=f"not metrics: {shown(str(error) or text)}")
    if not values:
        return Parsed(problem=f"no samples: {shown(text)}")
    return Parsed(value=Samples(families=frozenset(families | values.keys()), values=values))


def compare(first: Parsed[Samples], second: Parsed[Samples], elapsed_s: float, names: MetricNames) -> ServiceRates:
    """What happened in the `elapsed_s` seconds between two scrapes.

    A figure is unknown when its family is missing, a counter went back or a series vanished (a restart),
    a value is NaN, infinite or negative, or nobody asked in between: no requests is not "no errors".
    """

    def measured(figure: Callable[[Samples, Samples], Measure]) -> Measure:
        if first.value is None or second.value is None:
            return Measure(problem=first.problem if first.value is None else second.problem)
        try:
            return figure(first.value, second.value)
        except _UnknownMeasureError as error:
            return Measure(problem=str(error))

    def requests(before: Samples, after: Samples) -> float:
        return sum(_increases(before, after, names.requests).values())

    def errors(before: Samples, after: Samples) -> float:
        increases = _increases(before, after, names.errors, names.errors_where)
        total = sum(increases.values())
        if total == 0 and requests(before, after) == 0:
            raise _UnknownMeasureError("no traffic between the two scrapes")
        return total

    def per_second(total: float) -> Measure:
        if not 0 < elapsed_s < math.inf:
            raise _UnknownMeasureError(f"the two scrapes are {elapsed_s} s apart")
        return Measure(value=total / elapsed_s)

    def error_share(before: Samples, after: Samples) -> Measure:
        failed, asked = errors(before, after), requests(before, after)
        if failed > asked:
            raise _UnknownMeasureError(f"{names.errors} grew by {failed:g}, {names.requests} by {asked:g} only")
        return Measure(value=failed / asked)

    def latency(quantile: float) -> Measure:
        return measured(lambda before, after: _quantile(quantile, _buckets(before, after, names.latency)))

    return ServiceRates(
        requests_per_s=measured(lambda before, after: per_second(requests(before, after))),
        errors_per_s=measured(lambda before, after: per_second(errors(before, after))),
        error_share=measured(error_share),
        **{f"latency_p{round(100 * quantile)}_s": latency(quantile) for quantile in _QUANTILES},
        running=measured(lambda _, after: _smallest(after, names.running or "")) if names.running else None,
    )


def total(scraped: Parsed[Samples], name: str, where: Mapping[str, re.Pattern[str]] | None = None) -> Measure:
    """The sum of a counter's or gauge's series now, of those that `where` selects; unknown as in `compare`."""
    if scraped.value is None:
        return Measure(problem=scraped.problem)
    series = _series(scraped.value, name, "_total")
    if series is None:
        return Measure(problem=f"no metric {shown(name)}")
    try:
        _check_labels(series, name, where)
        return Measure(value=math.fsum(_wanted(series, name, where).values()))
    except _UnknownMeasureError as error:
        return Measure(problem=str(error))


def _series(samples: Samples, name: str, suffix: str) -> Mapping[Labels, float] | None:
    """The series of a family under its name or a usual variant of it; None when there is no such family."""
    base = next((name.removesuffix(end) for end in _SUFFIXES if name.endswith(end)), name)
    for variant in (name, base + suffix, base):
        if variant in samples.values:
            return samples.values[variant]
    return {} if {name, base} & samples.families else None


def _increases(
    before: Samples,
    after: Samples,
    name: str,
    where: Mapping[str, re.Pattern[str]] | None = None,
    suffix: str = "_total",
) -> dict[Labels, float]:
    """By how much each series of a counter grew. A series that is new began at zero."""
    old, new = _series(before, name, suffix), _series(after, name, suffix)
    if old is None or new is None:
        raise _UnknownMeasureError(f"no metric {shown(name)}")

    _check_labels(new, name, where)
    old, new = _wanted(old, name, where), _wanted(new, name, where)
    if old.keys() - new.keys() or any(new[labels] < value for labels, value in old.items()):
        raise _UnknownMeasureError(f"{name} went back: the service was restarted between the two scrapes")
    return {labels: value - old.get(labels, 0.0) for labels, value in new.items()}


def _wanted(
    series: Mapping[Labels, float], name: str, where: Mapping[str, re.Pattern[str]] | None
) -> dict[Labels, float]:
    """The series that `where` selects."""
    chosen = {
        labels: value
        for labels, value in series.items()
        if all(pattern.fullmatch(dict(labels).get(label, "")) for label, pattern in (where or {}).items())
    }
    if any(not 0 <= value <= _MAX_FIGURE for value in chosen.values()):
        raise _UnknownMeasureError(f"{name} holds a value that no counter can have")
    return chosen


def _check_labels(series: Mapping[Labels, float], name: str, where: Mapping[str, re.Pattern[str]] | None) -> None:
    """Without this a misspelt label would read as "no errors" for ever."""
    for label in where or {}:
        if series and not any(label in dict(labels) for labels in series):
            raise _UnknownMeasureError(f"{name} has no label {shown(label)}")


def _buckets(before: Samples, after: Samples, name: str) -> list[tuple[float, float]]:
    """Upper bounds with cumulative increases, summed over all series, in order of the bounds."""
    by_series: dict[Labels, dict[float, float]] = {}
    for labels, increase in _increases(before, after, name, suffix="_bucket").items():
        rest = tuple(pair for pair in labels if pair[0] != "le")
        by_series.setdefault(rest, {})[_bound(dict(labels).get("le", ""))] = increase
    layouts = {tuple(sorted(buckets)) for buckets in by_series.values()}
    if not layouts:
        raise _UnknownMeasureError("no traffic between the two scrapes")
    if len(layouts) > 1:
        raise _UnknownMeasureError(f"the series of {name} have different buckets")
    bounds = layouts.pop()
    if bounds[-1] != math.inf or len(bounds) < 2:
        raise _UnknownMeasureError(f"{name} is no histogram with a +Inf bucket")
    totals = [math.fsum(buckets[bound] for buckets in by_series.values()) for bound in bounds]
    if any(low > high * (1 + _TOLERANCE) for low, high in itertools.pairwise(totals)):
        raise _UnknownMeasureError(f"the buckets of {name} are not cumulative")
    return list(zip(bounds, itertools.accumulate(totals, max), strict=True))


def _bound(text: str) -> float:
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    if bound != math.inf and not abs(bound) <= _MAX_FIGURE:
        raise _UnknownMeasureError(f"a bucket's bound is {shown(text)}")
    return bound


def _quantile(quantile: float, buckets: list[tuple[float, float]]) -> Measure:
    """Linear within the bucket that holds the rank; the lowest bucket begins at zero."""
    total = buckets[-1][1]
    if total == 0:
        raise _UnknownMeasureError("no traffic between the two scrapes")
    rank = quantile * total
    position = next(index for index, (_, count) in enumerate(buckets) if count >= rank)
    bound, count = buckets[position]
    low, below = buckets[position - 1] if position else (min(0.0, bound), 0.0)
    if bound == math.inf:
        return Measure(value=low, at_least=True)
    return Measure(value=min(bound, low + (bound - low) * (rank - below) / (count - below)))


def _smallest(samples: Samples, name: str) -> Measure:
    series: Mapping[Any, float] = _series(samples, name, "") or {}
    if not series or any(not math.isfinite(value) for value in series.values()):
        raise _UnknownMeasureError(f"no metric {shown(name)}" if not series else f"{name} is not a number")
    return Measure(value=min(series.values()))
