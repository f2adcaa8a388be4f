"""How many are affected, as far as it is measured. What cannot be read is a blank, never a guess."""

from responder.domain.evidence import Dossier


def measured_impact(dossier: Dossier) -> str | None:
    """The share of requests that fail, host by host. None: not known."""
    shares = [(e.host, e.value) for e in dossier.of("metrics.error_share") if e.value]
    if not shares:
        return None
    return "failing requests: " + ", ".join(f"{share:.1%} on {host}" for host, share in shares)
