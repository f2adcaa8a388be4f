"""P1 to P4 by the profile's rules. Source: the document's "Determine severity"."""

from responder.domain.evidence import Dossier, Finding, Truth, all_of
from responder.domain.incident import Kind, Severity
from responder.domain.predicates import PREDICATES
from responder.domain.profile import Severities


def choose_severity(
    severities: Severities, kind: Kind, dossier: Dossier, *, floor: Severity | None, floor_by: str = "a person"
) -> tuple[Severity, str]:
    """The level of the first rule that holds, with its reason and the evidence it rests on.

    A rule that cannot be decided does not hold. `floor` is what `floor_by` (a person, an alert's rule) set: the
    level is never lower.
    Without any rule that holds it is P3: nobody should sleep through what no rule foresaw.
    """
    level, reason = Severity.P3, "no rule of the profile decides, so it is not taken lightly"
    for rule in severities.rules:
        if rule.kinds and kind not in rule.kinds:
            continue
        findings = [condition.check(dossier, PREDICATES) for condition in rule.when]
        if all_of(findings) is Truth.TRUE:
            level, reason = rule.level, rule.reason + _cited(findings)
            break
    if floor and floor < level:
        return floor, f"{floor_by} set {floor.value} (the rules say {level.value}: {reason})"
    return level, reason


def _cited(findings: list[Finding]) -> str:
    ids = list(dict.fromkeys(id for finding in findings for id in finding.evidence))
    shown = ", ".join(ids[:6]) + (", …" if len(ids) > 6 else "")
    return f" ({shown})" if ids else ""
