"""Services from the command line: reading profiles, taking secrets, checking that all would work."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from getpass import getpass
from pathlib import Path
from typing import Any

from responder.domain.errors import IncidentResponseError, PermanentError
from responder.domain.profile import Host, Profile, read_profile
from responder.domain.sudo import listed_commands, may_run
from responder.store import Store

Finding = dict[str, Any]
# Where the documentation helps with what a check finds wrong.
SERVICE = "docs/how-to.md#add-a-service"
SECRETS = "docs/how-to.md#secrets"
HOST_KEYS = "docs/how-to.md#host-keys"
RIGHTS = "docs/how-to.md#rights-on-the-hosts"
ENDPOINTS = "docs/profile.md#endpoints"
STRATEGIES = "docs/profile.md#strategies"
CHANNELS = "docs/how-to.md#let-it-tell-people"
STAKEHOLDERS = "docs/how-to.md#tell-somebody-through-another-channel"
WORDING = "docs/how-to.md#change-the-wording"
UNKNOWN = "docs/how-it-works.md#unknown-is-not-healthy"


def read_profile_file(path: Path) -> Profile:
    """The profile in a file, with the text of its `known_hosts_file` taken in. Raises `PermanentError`."""
    profile = read_profile(_text(path, str(path)), source=str(path))
    if not profile.ssh.known_hosts_file:
        return profile
    hosts = path.parent / Path(profile.ssh.known_hosts_file).expanduser()
    text = _text(hosts, f"{path}: `ssh.known_hosts_file`: {hosts}", HOST_KEYS)
    ssh = profile.ssh.model_copy(update={"known_hosts": profile.ssh.known_hosts + text, "known_hosts_file": None})
    return profile.model_copy(update={"ssh": ssh})


def gather_secrets(profile: Profile, given: Sequence[str]) -> dict[str, str]:
    """Each secret that the profile names: from `NAME=@FILE`, the environment, or a prompt.

    Raises `PermanentError` naming every secret that is missing where nobody can be asked.
    """
    wanted = profile.secret_names()
    secrets = dict(_from_file(item, wanted) for item in given)
    for name in wanted:
        if name not in secrets and os.environ.get(name):
            secrets[name] = os.environ[name]
    missing = [name for name in wanted if name not in secrets]
    if missing and not sys.stdin.isatty():
        raise PermanentError(
            f"secrets are missing: {', '.join(missing)}; set them in the environment, or give --secret NAME=@FILE",
            page=SECRETS,
        )
    for name in missing:
        secrets[name] = getpass(f"{name}: ")
    return secrets


def _from_file(item: str, wanted: Sequence[str]) -> tuple[str, str]:
    name, separator, path = item.partition("=@")
    if not separator:
        raise PermanentError(
            f"--secret {name.split('=')[0]}: say NAME=@FILE, so that it is in no shell history", page=SECRETS
        )
    if name not in wanted:
        raise PermanentError(
            f"--secret {name}: the profile names no such secret; it names {', '.join(wanted)}", page=SECRETS
        )
    # Editors end a file with a newline, which no header that carries a token may hold.
    return name, _text(Path(path).expanduser(), f"--secret {name}: {path}", SECRETS).strip()


def _text(path: Path, named: str, page: str = "docs/profile.md") -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PermanentError(f"{named}: {error.strerror}", page=page) from error
    except UnicodeDecodeError as error:
        raise PermanentError(f"{named}: not UTF-8 text", page=page) from error


def check(name: str, store: Store) -> list[Finding]:
    """Everything that an incident of the service would need, one finding each; nothing is changed.

    What could be read is remembered: it counts as known before a fault.
    """
    from blocks.service import load_profile, load_ssh

    profile = load_profile(name)
    ssh = load_ssh(name)
    findings: list[Finding] = []
    jump_ok = True
    if profile.ssh.jump:
        findings.append(_check_jump(ssh))
        jump_ok = findings[0]["ok"]
    for host in profile.hosts:
        if jump_ok:
            findings += _check_host(profile, ssh, host, store)
        else:
            findings.append(_finding(f"{host.name}: {REACHABLE}", False, "not tried, without the jump host"))
    findings += _check_outside(profile)
    findings += _check_templates()
    findings += _check_secret_patterns()
    return findings


WHOLE_PATH = 'cd -- "$(dirname -- "$1")" && printf "%s/%s" "$(pwd -P)" "$(basename -- "$1")"'
REACHABLE = "reachable, host key and key accepted"
SCRIPT_MISSING = ("rollback.script", False)


def _check_jump(ssh: Any) -> Finding:
    jump = f"jump host {ssh.jump.address}: {REACHABLE}"
    try:
        ssh.reach_jump_host()
    except IncidentResponseError as error:
        return _finding(jump, False, str(error), error.page or SERVICE)
    return _finding(jump, True, f"as {ssh.jump.user or ssh.user}")


def _check_host(profile: Profile, ssh: Any, host: Host, store: Store) -> Iterator[Finding]:
    from responder.domain.base import now
    from responder.domain.evidence import Dossier
    from responder.domain.verification import required_checks, take_sample
    from tasks.probes import Look

    try:
        with Look(profile, ssh, host) as look:
            yield _finding(f"{host.name}: {REACHABLE}", True, f"as {profile.ssh.user}")
            programs = {
                "systemctl": profile.unit.systemctl[0],
                "journalctl": profile.unit.journalctl[0],
                **{program: program for program in ("ps", "free", "df", "who", "timeout", "setsid", "mkdir")},
            }
            if profile.endpoints.probe_from == "host":
                programs["curl"] = "curl"
            there = {}
            for program in dict.fromkeys(programs.values()):
                found = look.read("sh", "-c", 'command -v -- "$1"', "sh", program)
                there[program] = found.exit_status == 0
                yield _finding(
                    f"{host.name}: command {program}", there[program], found.stdout.strip() or "missing", RIGHTS
                )
            yield from _check_rights(profile, look, host)
            yield from _check_strategies(profile, look, host)
            look.unit()
            if there[programs["journalctl"]]:
                look.journal("-n", "50")
                unread = next(seen.unknown for seen in look.evidence if seen.key == "journal.lines")
                yield _finding(f"{host.name}: journal", unread is None, unread or "can be read", RIGHTS)
            look.two_scrapes(look.endpoints)
            sample = take_sample(Dossier(evidence=look.evidence), profile, now(), [host.name])
            for reading in sample.readings:
                yield _finding(
                    f"{host.name}: {reading.check}",
                    reading.verdict == "healthy",
                    f"{reading.verdict}, {reading.reason}",
                    UNKNOWN if reading.verdict == "unknown" else ENDPOINTS,
                )
            store.remember_readings(
                profile.name,
                [(r.host, r.check, r.verdict) for r in sample.readings if r.check in required_checks(profile)],
            )
    except IncidentResponseError as error:
        yield _finding(f"{host.name}: {REACHABLE}", False, str(error), error.page or SERVICE)


def _check_rights(profile: Profile, look: Any, host: Host) -> Iterator[Finding]:
    """Whether sudo would let each strategy's command run without a password, by its listing only."""
    wanted = {name: strategy.command for name, strategy in profile.strategies.items()}
    wanted |= {"reading the journal": profile.unit.journalctl, "reading the unit": profile.unit.systemctl}
    behind_sudo = {what: command for what, command in wanted.items() if command[0] == "sudo"}
    if not behind_sudo:
        return
    listing = look.read("sudo", "-n", "-l")
    allowed = listed_commands(listing.stdout) if listing.exit_status == 0 else ()
    for what, command in behind_sudo.items():
        argv = [word for word in command[1:] if word != "-n"]
        if argv and "/" in argv[0] and not argv[0].startswith("/"):  # the listing names whole paths
            argv[0] = look.read("sh", "-c", WHOLE_PATH, "sh", argv[0]).stdout.strip() or argv[0]
        shown = " ".join(argv)
        ok = may_run(allowed, argv, exact=what in profile.strategies)
        yield _finding(
            f"{host.name}: sudo for {what}",
            ok,
            f"{shown}: NOPASSWD" if ok else f"{shown}: not in the listing of `sudo -n -l` as NOPASSWD",
            RIGHTS,
        )


def _check_strategies(profile: Profile, look: Any, host: Host) -> Iterator[Finding]:
    """Whether what each strategy reads before it acts can be read, so that it could ever be tried."""
    for name, strategy in profile.strategies.items():
        before = len(look.evidence)
        look.strategies(name)
        seen = look.evidence[before:]
        missing = [
            f"{e.key}: {e.unknown or 'no'}" for e in seen if e.unknown or (e.key, e.value) == SCRIPT_MISSING
        ]
        if seen:
            # What asks a person first is refused at its turn, with this reason: no gap in what runs by itself.
            ok = not missing or not strategy.severities
            detail = "; ".join(missing) or "can be tried"
            yield _finding(f"{host.name}: strategy {name}", ok, detail, STRATEGIES)


def _check_outside(profile: Profile) -> Iterator[Finding]:
    from blocks.service import load_pagerduty, load_slack, load_statuspage, load_tickets

    systems: list[tuple[str, bool, Callable[[str], Any]]] = [
        ("PagerDuty", profile.pagerduty is not None, load_pagerduty),
        ("Slack", profile.slack is not None, load_slack),
        ("Statuspage", profile.statuspage is not None, load_statuspage),
        ("Tickets", profile.tickets is not None, load_tickets),
    ]
    for system, configured, load in systems:
        if not configured:
            yield _finding(system, True, "not configured: nobody is told through it")
            continue
        try:
            block = load(profile.name)
            joining = profile.pagerduty.policies.values() if system == "PagerDuty" and profile.pagerduty else None
            problems = block.check() if joining is None else block.check([*joining])
        except IncidentResponseError as error:
            problems = [str(error)]
        yield _finding(system, not problems, "; ".join(problems) or "credentials accepted", CHANNELS)
    for reference in profile.stakeholders:
        from blocks.notification import load_notification

        try:
            load_notification(reference)
        except IncidentResponseError as error:
            yield _finding(f"stakeholders: {reference}", False, str(error), STAKEHOLDERS)
        else:
            yield _finding(f"stakeholders: {reference}", True, "is saved; only sending would show that it arrives")
    if profile.pagerduty is None and profile.slack is None:
        # A choice of the profile, not a fault: whoever declares an incident is told where they declare it.
        yield _finding("telling people", True, "neither PagerDuty nor Slack is configured: nobody would be paged")


def _check_templates() -> Iterator[Finding]:
    from responder.domain.notices import SITE_TEMPLATES
    from responder.domain.site_templates import template_problems

    if folder := os.environ.get(SITE_TEMPLATES):
        problems = template_problems(folder)
        yield _finding("templates", not problems, "; ".join(problems) or f"those in {folder} can be used", WORDING)


def _check_secret_patterns() -> Iterator[Finding]:
    from responder.domain.redaction import SITE_PATTERNS, pattern_problems

    if path := os.environ.get(SITE_PATTERNS):
        problems = pattern_problems()
        yield _finding(
            "secret patterns", not problems, "; ".join(problems) or f"those in {path} are used", SECRETS
        )


def _finding(what: str, ok: bool, detail: str, page: str = "") -> Finding:
    """One line of the check; `page` is where the documentation helps when it is not ok."""
    return {"what": what, "ok": ok, "detail": detail, "see": "" if ok else page}
