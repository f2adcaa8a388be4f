"""The reference in `docs/`, generated from the models, the predicates and the command line.

`python -m responder.reference` writes it; `--check` only says which page is stale, and exits with 1.
"""

import inspect
import json
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from responder.cli.app import app
from responder.domain import fields
from responder.domain.base import Text, UtcDatetime
from responder.domain.evidence import OPERATORS, Condition
from responder.domain.hypothesis import Catalogue, Hypothesis, read_catalogue
from responder.domain.incident import Outcome
from responder.domain.predicates import PREDICATES
from responder.domain.profile import Profile
from responder.domain.strategies import KINDS, Strategies, StrategyName
from responder.lab.faults import AnyFault, Fault, GatewayFault
from responder.lab.scenario import DIRECTORY as SCENARIOS
from responder.lab.scenario import Scenario, load_scenario, scenario_names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLE = DOCS / "example-profile.yaml"
CATALOGUE = Path(__file__).parent / "hypotheses" / "catalogue.yaml"
GENERATED = "<!-- Written by `python -m responder.reference`. Change the code it is made from, not this page. -->"

NAMES: Mapping[Any, str] = {
    fields.Argument: "argument",
    fields.Command: "list of arguments",
    fields.HttpUrl: "URL",
    fields.SecretName: "name of a secret",
    fields.Pattern: "regular expression",
    StrategyName: "a strategy",
    UtcDatetime: "time (UTC)",
    Text: "text",
    datetime: "time (UTC)",
    time: "time of day",
    str: "text",
    bool: "yes or no",
    int: "whole number",
    float: "number",
    Path: "file",
    Any: "any value",
}
UNITS = {"_s": "s", "_ms": "ms", "_minutes": "min", "_percent": "%"}

OPERATOR_WORDS = {
    "is": "equal to the value (the default)",
    "is_not": "anything else than the value; an unknown reading is not anything else",
    "in": "one of a list of values",
    "above": "greater than the value",
    "below": "smaller than the value",
    "matches": "the regular expression is found in it, in any case; in a list, in one of its entries",
}

EVIDENCE = {
    "host.reachable": "yes or no: could SSH connect and log in",
    "unit.active_state": "`active`, `inactive`, `failed`, `activating`, … (`systemctl show`)",
    "unit.sub_state": "`running`, `dead`, `auto-restart`, …",
    "unit.result": "`success`, `exit-code`, `signal`, `oom-kill`, …",
    "unit.main_pid": "process id of the main process; 0 for none",
    "unit.n_restarts": "automatic restarts by systemd",
    "unit.exec_main_status": "exit status or signal of the main process' last end",
    "unit.started_at": "when the unit became active, ISO 8601",
    "unit.start_barred_s": "for how long systemd may still refuse every start of a failed unit, s",
    "unit.status": "first line of `systemctl status`",
    "processes.count": "processes that match `unit.process_pattern`",
    "process.state": "state letter of the main process: `R`, `S`, `D`, `T`, `Z`",
    "process.cpu_percent": "processor share of the main process, %",
    "process.rss_bytes": "resident memory of the main process, bytes",
    "process.memory_percent": "the same as a share of `unit.memory_limit_mib`, %",
    "process.capture": "name of the file with the process' saved state",
    "deployments.running": "running processes that match `unit.deployment_processes`",
    "logins.active": "interactive logins begun or used since the first alert",
    "window.open": "yes or no: a freeze or maintenance window holds (seen at the service, not at a host)",
    "memory.used_percent": "memory that is not available, %",
    "disk.used_percent": "the fullest file system, %",
    "disk.inodes_used_percent": "the file system with the fewest free inodes, %",
    "journal.lines": "the last lines of the unit's journal, a list",
    "journal.errors": "number of error lines",
    "journal.patterns": "error lines grouped by pattern, a list",
    "journal.oom_kills": "kills for memory that the unit's journal tells of",
    "kernel.oom_kills": "kills for memory that the kernel's journal tells of",
    "changes.release": "where `unit.release_link` points to",
    "changes.release_switched_at": "when that link was changed, ISO 8601",
    "changes.release_minutes": "for how long it had been so when it was read, min",
    "changes.config_minutes": "for how long `unit.config_file` had been as it is when it was read, min",
    "rollback.script": "yes or no: `strategies.rollback.script` is there and may be run",
    "scale.replicas": "replicas that the deployment asks for",
    "scale.ready": "replicas that are ready",
    "scale.version": "the deployment's resourceVersion",
    "config.is_good": "yes or no: the configuration is the same as its last good copy",
    "STRATEGY.NAME": "each of a strategy's own `facts`, text, number, or yes and no",
    "health.verdict": "`healthy` or `unhealthy`",
    "health.failure": "what failed, one word of the list below",
    "health.status": "HTTP status",
    "health.latency_s": "time until the answer was complete, s",
    "engine.verdict": "as for health; only with `endpoints.engine`",
    "engine.failure": "as for health",
    "engine.status": "as for health",
    "engine.latency_s": "as for health",
    "orders.verdict": "as for health; only with `endpoints.orders`",
    "orders.failure": "as for health",
    "orders.status": "as for health",
    "orders.latency_s": "as for health",
    "orders.items": "number of orders in the first field of `endpoints.orders.present`",
    "metrics.failure": "what failed, one word of the list below",
    "metrics.snapshot": "name of the file with the metrics as they were",
    "metrics.error_share": "failed of all requests between two scrapes, 0 to 1",
    "metrics.errors_per_s": "failed requests a second",
    "metrics.requests_per_s": "requests a second",
    "metrics.latency_p50_s": "median latency, s",
    "metrics.latency_p90_s": "90th percentile of latency, s",
    "metrics.latency_p99_s": "99th percentile of latency, s",
    "metrics.load": "the gauge `endpoints.metrics.load`, like requests in flight",
    "metrics.overloaded": "yes or no: that gauge is above `endpoints.metrics.load_limit`",
    "metrics.verdict": "`healthy` or `unhealthy`, by the profile's `sla`",
    "impact.requests": "the counter of requests as it stands, `impact.total`",
    "impact.failed": "the counter of failed requests as it stands, `impact.failed`",
    "impact.clients": "clients connected; only with `impact.clients`",
}

FAILURES = {
    "none": "nothing failed",
    "refused": "nothing listens",
    "timeout": "no answer in time",
    "empty_reply": "the connection was closed without an answer",
    "unreachable": "no way to the host, or its name does not resolve",
    "rate_limited": "429: this says nothing about the users",
    "server_error": "500 and above",
    "client_error": "400 and above, but 429",
    "unhealthy": "an answer that contradicts the profile's `expect`",
    "shape": "an answer that is not what was asked for, like a web page",
}


def pages() -> dict[str, str]:
    """Each generated page: its file name in `docs/` and its whole text."""
    found = {
        "profile.md": _profile_page(),
        "scenarios.md": _scenarios_page(),
        "catalogue.md": _catalogue_page(),
        "commands.md": _commands_page(),
    }
    return {name: text.strip() + "\n" for name, text in found.items()}


def stale() -> list[str]:
    """The pages whose file differs from what the code says now."""
    return [
        name
        for name, text in pages().items()
        if not (DOCS / name).exists() or (DOCS / name).read_text(encoding="utf-8") != text
    ]


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with `--check` only compare. Returns the exit status."""
    names = stale()
    if list(arguments) == ["--check"]:
        sys.stdout.writelines(f"docs/{name} is stale: run `python -m responder.reference`\n" for name in names)
        return 1 if names else 0
    if arguments:
        sys.stderr.write("usage: python -m responder.reference [--check]\n")
        return 2
    for name in names:
        (DOCS / name).write_text(pages()[name], encoding="utf-8")
        sys.stdout.write(f"docs/{name} written\n")
    return 0


def _profile_page() -> str:
    sections = [model for model in _models(Profile)[1:] if model is not Condition]
    first = sections.index(next(model for model in sections if model in KINDS.values()))
    kinds = ", ".join(f"[{name}](#{kind.__name__.lower()})" for name, kind in KINDS.items())
    return f"""# The profile

{GENERATED}

A profile is one YAML file that tells everything about one service. `incident service add FILE` checks it and
saves it; a mistake is reported with its line and the nearest key that exists. Secrets are never in it, only their
names. A field without a default is required. Unknown keys are errors.

## A complete small profile

Copy [example-profile.yaml](example-profile.yaml) and change hosts, names and addresses.
`responder/services/veloz.yaml` is a full one.

```yaml
{EXAMPLE.read_text(encoding="utf-8").strip()}
```

## The whole file

{_about(Profile)}

{_described(sections[:first])}

## Strategies

What may be done, each by its name: {kinds}.
[How to](how-to.md#let-it-roll-back-scale-fail-over-put-a-configuration-back) shows some, and
[how it works](how-it-works.md#strategies) says when each is tried.

{_described(sections[first:])}

## Condition

{_about(Condition)}

Operators, predicates and the keys of evidence are described in [the catalogue](catalogue.md#condition)."""


def _scenarios_page() -> str:
    shipped = [(f"`{s.name}`", s.summary, s.expect.outcome) for s in map(load_scenario, scenario_names())]
    faults = [
        (", ".join(f"`{name}`" for name in _literals(kind)), _parameters(kind), _first_line(kind))
        for kind in get_args(get_args(AnyFault)[0])
    ]
    common = _fields(GatewayFault, besides=set(Fault.model_fields))
    return f"""# Scenarios

{GENERATED}

A scenario is a YAML file that says what breaks in the lab, who notices, and what a right response is.
`incident drill NAME` runs one that comes with the software, `incident drill FILE` one of your own, and
`incident drill --all` all that come with it. The lab counts on its own hosts what was really done there.

## Those that come with the software

{_table(("Name", "What happens and what is right", "Outcome"), shipped)}

## An example

```yaml
{(SCENARIOS / "process-crash.yaml").read_text(encoding="utf-8").strip()}
```

## The file

{_about(Scenario)}

{_described([model for model in _models(Scenario)[1:] if not issubclass(model, Fault)])}

## Faults

Every fault has these fields, and `do`, its name:

{_fields(Fault)}

{_table(("do", "Its own fields", "What it does"), faults)}

`until_restart` belongs to all faults of the gateway itself:

{common}"""


def _catalogue_page() -> str:
    known = read_catalogue(CATALOGUE.read_text(encoding="utf-8"), source=CATALOGUE.name)
    shipped = [(f"`{row.id}`", row.cause, row.strategy) for row in known.hypotheses]
    operators = [(f"`{name}`", OPERATOR_WORDS[name]) for name in OPERATORS]
    predicates = [(f"`{name}`", inspect.getdoc(found)) for name, found in PREDICATES.items()]
    return f"""# The catalogue of hypotheses

{GENERATED}

A hypothesis is a possible cause. The catalogue, `responder/hypotheses/catalogue.yaml`, lists them in the order in
which they are checked. Each host is judged by its own evidence, so that a cause is never put together from the
symptoms of two hosts. A hypothesis is

- **supported** when everything in `requires` holds and nothing in `refutes` does;
- **refuted** when something in `requires` does not hold or something in `refutes` does;
- **open** otherwise: something that would decide it is unknown. An open hypothesis leads to no action.

A strategy is carried out where the profile configures it; `wait` watches until its deadline. Every other one is
handed to a person, together with the hypothesis. [The profile](profile.md) describes each.

## Those that come with the software

{_table(("Id", "Cause", "Strategy"), shipped)}

## The file

{_about(Catalogue)}

### Hypothesis

{_about(Hypothesis)}

## Condition

{_about(Condition)}

A condition is true, false or unknown. What was never observed, or could not be read, is unknown.

### Operators

{_table(("Operator", "Holds when the reading is"), operators)}

### Predicates

Conditions that need more than one reading are written in Python (`responder/domain/predicates.py`) and used by
name:

{_table(("Predicate", "Holds when"), predicates)}

### Evidence

What can be compared. Each is seen at a host, unless it says otherwise:

{_table(("Key", "What it is"), [(f"`{key}`", words) for key, words in EVIDENCE.items()])}

The words of `….failure`:

{_table(("Word", "Meaning"), [(f"`{word}`", meaning) for word, meaning in FAILURES.items()])}"""


def _commands_page() -> str:
    text = "\n\n".join(_command(*found) for found in _commands())
    outcomes = [
        (f"`{o.value}`", "Completed" if o.succeeded else "Failed", "closed" if o.closes else "open")
        for o in Outcome
    ]
    return f"""# Commands

{GENERATED}

Exit status: 0 yes, 1 no, 2 wrong usage. With `--json` a command prints one JSON document on standard output;
messages go to standard error. `incident up` and `incident watch` print a document a line, as things happen. State
lies in `.incident/` of the current directory, or in the folder that `INCIDENT_HOME` names.

A command that needs a Prefect server uses the one in `PREFECT_API_URL`; where that is not set, the one of
`incident up` in the same data folder; where that does not run either, one of its own for as long as it runs.
`incident drill` always starts its own.

{text}

## Outcomes

How a run ends, the state that Prefect shows, and whether the incident is closed with it.
[How it works](how-it-works.md#outcomes) says what each means.

{_table(("Outcome", "State of the run", "Incident"), outcomes)}"""


def _commands() -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """Each command's whole name, the command as it is parsed, and the function behind it."""
    tree: Any = typer.main.get_command(app)
    for group, below, prefix in (
        (app, tree, "incident"),
        *((g.typer_instance, tree.commands[g.name], f"incident {g.name}") for g in app.registered_groups),
    ):
        assert group is not None
        for known in group.registered_commands:
            assert known.callback is not None
            name = known.name or known.callback.__name__.replace("_", "-")
            yield f"{prefix} {name}", below.commands[name], known.callback


def _command(name: str, command: Any, callback: Callable[..., Any]) -> str:
    hints, usage, rows = get_type_hints(callback), [name], []
    for parameter in sorted(command.params, key=lambda parameter: parameter.param_type_name):
        if parameter.name not in hints:
            continue  # --help
        shown, flag = parameter.opts[0], hints[parameter.name] is bool
        if parameter.param_type_name == "argument":
            shown = shown.upper()
            usage.append(shown if parameter.required else f"[{shown}]")
        elif parameter.required:
            usage.append(f"{shown} …")
        default = "required" if parameter.required else "" if flag else _value(parameter.default)
        rows.append((f"`{shown}`", "flag" if flag else _words(hints[parameter.name]), default, parameter.help))
    options = " [OPTIONS]" if any(row[0].startswith("`--") for row in rows) else ""
    table = _table(("", "Type", "Default", "What it is"), rows)
    return f"## {name}\n\n{inspect.getdoc(callback)}\n\n```text\n{' '.join(usage)}{options}\n```\n\n{table}"


def _models(root: type[BaseModel]) -> list[type[BaseModel]]:
    """`root` and every model below it, in the order in which a reader meets them."""
    found = [root]
    for hint in get_type_hints(root).values():
        found += [model for below in _models_in(hint) for model in _models(below)]
    return list(dict.fromkeys(found))


def _models_in(hint: Any) -> list[type[BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return [hint]
    if hint is Strategies:
        return list(KINDS.values())
    return [model for argument in get_args(hint) for model in _models_in(argument)]


def _described(models: Sequence[type[BaseModel]]) -> str:
    return "\n\n".join(f"## {model.__name__}\n\n{_about(model)}" for model in models)


def _about(model: type[BaseModel]) -> str:
    return f"{inspect.getdoc(model)}\n\n{_fields(model)}"


def _fields(model: type[BaseModel], besides: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    """The table of a model's fields."""
    hints, bounds = get_type_hints(model, include_extras=True), _bounds(model)
    rows = []
    for name, field in model.model_fields.items():
        if name in besides:
            continue
        unit = next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "")
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "required" if default is PydanticUndefined else _value(default)
        rows.append((f"`{name}`", _words(hints[name]), unit, shown, bounds[name], description(model, name)))
    return _table(("Field", "Type", "Unit", "Default", "Bounds", "What it is"), rows)


def description(model: type[BaseModel], name: str) -> str:
    """What a field is: its own description, else the first line of the section that it holds."""
    found = model.model_fields[name].description
    sections = _models_in(model.model_fields[name].annotation)
    return found or (_first_line(sections[0]) if sections else "")


def _parameters(kind: type[Fault]) -> str:
    """A fault's own fields in one cell."""
    hints, shown = get_type_hints(kind, include_extras=True), []
    for name, field in kind.model_fields.items():
        if name in (*Fault.model_fields, "do", "until_restart"):
            continue
        default = "required" if field.is_required() else f"default {_value(field.default)}"
        shown.append(f"`{name}`: {_words(hints[name])}, {default}{f'; {d}' if (d := field.description) else ''}")
    return "<br>".join(shown)


def _literals(kind: type[Fault]) -> tuple[str, ...]:
    return get_args(kind.model_fields["do"].annotation)


def _bounds(model: type[BaseModel]) -> dict[str, str]:
    """What each field must keep to, from the model's JSON schema."""
    signs = {
        "minimum": "≥ {}",
        "exclusiveMinimum": "> {}",
        "maximum": "≤ {}",
        "exclusiveMaximum": "< {}",
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
        "minItems": "at least {} entries",
        "pattern": "`{}`",
    }
    shown = {}
    for name, schema in model.model_json_schema()["properties"].items():
        parts = [schema, *schema.get("anyOf", [])]
        found = {key: part[key] for part in parts for key in signs if key in part}
        shown[name] = ", ".join(signs[key].format(value) for key, value in found.items())
    return shown


def _words(hint: Any) -> str:
    """A type in words; a model is a link to its section."""
    try:
        if hint in NAMES:
            return NAMES[hint]
    except TypeError:  # an annotation that holds something without a hash
        pass
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Strategies:
        return f"map of {_alternatives([f'[{name}](#{kind.__name__.lower()})' for name, kind in KINDS.items()])}"
    if origin is Annotated:
        return _words(arguments[0])
    if origin is Literal:
        return _alternatives([_value(argument) for argument in arguments])
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        if all(isinstance(kind, type) and issubclass(kind, Fault) for kind in kinds):
            return "[fault](#faults)"
        return _alternatives([_words(kind) for kind in kinds])
    if origin in (tuple, list):
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return f"map of {_words(arguments[0])} to {_words(arguments[1])}"
    if issubclass(hint, Enum):
        return _alternatives([_value(member) for member in hint])
    if issubclass(hint, BaseModel):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    raise TypeError(f"the reference has no words for {hint!r}")


def _alternatives(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _value(value: Any) -> str:
    """A default as it is written in a file."""
    if isinstance(value, BaseModel):
        return "as below"
    if value is None or value in ("", (), {}):
        return "empty"
    plain = json.dumps(value, default=lambda other: getattr(other, "value", str(other)))
    if isinstance(value, dict):
        plain = json.dumps({str(getattr(key, "value", key)): item for key, item in value.items()})
    return f"`{plain.strip(chr(34)) if isinstance(value, str) else plain}`"


def _first_line(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or "").splitlines()[0]


def _table(header: Sequence[str], rows: Sequence[Sequence[str | None]]) -> str:
    """A Markdown table; columns that are empty throughout are left out."""
    kept = [i for i, _ in enumerate(header) if any(row[i] for row in rows)]
    lines = [[header[i] for i in kept], ["---"] * len(kept), *[[_cell(row[i]) for i in kept] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", r"\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
