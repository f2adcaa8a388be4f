"""Conditions that need more than evidence, operator and value. Profiles and the catalogue name them."""

from collections.abc import Callable, Iterable, Mapping

from responder.domain.evidence import Dossier, Evidence, Finding, Predicate, Truth

ENDPOINTS = ("health", "engine", "metrics", "orders")
_FROZEN_STATES = ("T", "D")
_BUSY_PERCENT = 95.0
_RESTARTS = 2


def _finding(truth: Truth, statement: str, evidence: Iterable[Evidence]) -> Finding:
    return Finding(truth=truth, statement=statement, evidence=tuple(item.id for item in evidence))


def _on_some_host(
    dossier: Dossier, statement: str, decide: Callable[[Dossier, str], tuple[Truth, list[Evidence]]]
) -> Finding:
    """True when it holds on one host at least; unknown when it may."""
    decided = [decide(dossier, host) for host in dossier.hosts]
    for truth in (Truth.TRUE, Truth.UNKNOWN):
        cited = [item for found, items in decided if found is truth for item in items]
        if any(found is truth for found, _ in decided):
            return _finding(truth, statement, cited)
    truth = Truth.FALSE if decided else Truth.UNKNOWN
    return _finding(truth, statement, [item for _, items in decided for item in items])


def _number(item: Evidence | None) -> float | None:
    return item.value if item and isinstance(item.value, int | float) else None


def somebody_explains_it(dossier: Dossier) -> Finding:
    """A maintenance window, a running deployment or an interactive login explains what was found."""
    known = [item for key in ("window.open", "deployments.running", "logins.active") for item in dossier.of(key)]
    causes = [item for item in known if item.value]
    if causes:
        words = {
            "window.open": "a window is open",
            "deployments.running": "a deployment is running",
            "logins.active": "somebody is logged in",
        }
        text = "; ".join(f"{words[item.key]} ({item.host})" for item in causes)
        return _finding(Truth.TRUE, text, causes)
    unknown = [item for item in known if item.unknown is not None]
    truth = Truth.UNKNOWN if unknown or not known else Truth.FALSE
    return _finding(truth, "a window, a deployment or a login explains it", known)


def every_endpoint_hangs(dossier: Dossier) -> Finding:
    """On one host, every endpoint that was asked accepted the connection and never answered."""

    def decide(dossier: Dossier, host: str) -> tuple[Truth, list[Evidence]]:
        asked = [item for name in ENDPOINTS if (item := dossier.on(host, f"{name}.failure"))]
        if not asked:
            return Truth.FALSE, []
        known = [item for item in asked if item.unknown is None]
        if any(item.value != "timeout" for item in known):
            return Truth.FALSE, known
        return (Truth.TRUE if len(known) == len(asked) else Truth.UNKNOWN), asked

    return _on_some_host(dossier, "every endpoint accepts and never answers", decide)


def process_is_stuck(dossier: Dossier) -> Finding:
    """The main process is stopped (T), in uninterruptible sleep (D) or burns a whole processor."""

    def decide(dossier: Dossier, host: str) -> tuple[Truth, list[Evidence]]:
        state, busy = dossier.on(host, "process.state"), dossier.on(host, "process.cpu_percent")
        looked = [item for item in (state, busy) if item]
        letter, percent = state and state.value, _number(busy)
        if letter in _FROZEN_STATES or (percent is not None and percent >= _BUSY_PERCENT):
            return Truth.TRUE, looked
        unknown = not looked or (state and not isinstance(letter, str)) or (busy and percent is None)
        return (Truth.UNKNOWN if unknown else Truth.FALSE), looked

    return _on_some_host(dossier, "the process is stopped, blocked or burns a processor", decide)


def unit_keeps_restarting(dossier: Dossier) -> Finding:
    """systemd has restarted the unit again and again and it is not plainly running."""

    def decide(dossier: Dossier, host: str) -> tuple[Truth, list[Evidence]]:
        restarts, state = dossier.on(host, "unit.n_restarts"), dossier.on(host, "unit.sub_state")
        looked = [item for item in (restarts, state) if item]
        count, word = _number(restarts), state and state.value
        if count is None or not isinstance(word, str):
            return Truth.UNKNOWN, looked
        looping = count >= _RESTARTS and word != "running"
        return (Truth.TRUE if looping else Truth.FALSE), looked

    return _on_some_host(dossier, "the restart counter rises and the unit does not run", decide)


def something_unhealthy(dossier: Dossier) -> Finding:
    """Any reading of any endpoint is unhealthy."""
    verdicts = [item for name in ENDPOINTS for item in dossier.of(f"{name}.verdict")]
    bad = [item for item in verdicts if item.value == "unhealthy"]
    if bad:
        return _finding(Truth.TRUE, "unhealthy: " + ", ".join(f"{i.key} on {i.host}" for i in bad), bad)
    unsure = [item for item in verdicts if item.value != "healthy"]
    truth = Truth.UNKNOWN if unsure or not verdicts else Truth.FALSE
    return _finding(truth, "some reading is unhealthy", unsure or verdicts)


def something_unknown(dossier: Dossier) -> Finding:
    """Some endpoint cannot be judged: it answered nothing, or nothing that makes sense."""
    verdicts = [item for name in ENDPOINTS for item in dossier.of(f"{name}.verdict")]
    unsure = [item for item in verdicts if item.value not in ("healthy", "unhealthy")]
    truth = Truth.TRUE if unsure or not verdicts else Truth.FALSE
    text = "unknown: " + (", ".join(f"{i.key} on {i.host}" for i in unsure) or "nothing was read")
    return _finding(truth, text if truth is Truth.TRUE else "no reading is unknown", unsure or verdicts)


PREDICATES: Mapping[str, Predicate] = {
    function.__name__: function
    for function in (
        somebody_explains_it,
        every_endpoint_hangs,
        process_is_stuck,
        unit_keeps_restarting,
        something_unhealthy,
        something_unknown,
    )
}
