"""The documentation says what the code does: generated pages are fresh, examples work, links lead somewhere."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from doc_pages import PAGES, README, ROOT, anchors, blocks, prose

from responder import reference
from responder.cli.app import app
from responder.cli.services import read_profile_file
from responder.domain.evidence import OPERATORS, Dossier
from responder.domain.hypothesis import Catalogue
from responder.domain.incident import Mode, Outcome
from responder.domain.profile import Profile, read_profile
from responder.domain.strategies import Target, scale
from responder.installation import LOOPBACK, RECEIVER_PORT
from responder.lab.scenario import Scenario

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SHELL = {"bash", "cat", "cp", "curl", "export", "printf", "sed", "source", "umask"}
OTHERS = {*SHELL, "prefect", "ssh", "ssh-copy-id", "ssh-keygen", "ssh-keyscan"}
NAMED = re.compile(r"`((?:flows|tasks|blocks|responder|docs)/[\w./-]+)`")


def command_lines() -> Iterator[list[str]]:
    """Every command of the shell blocks, and every command in the running text, as words."""
    for block in blocks("bash", "console"):
        lines = "\n".join(block.commands).splitlines()
        yield from filter(None, (shlex.split(line, comments=True) for line in lines))
    for page in PAGES:
        yield from (
            shlex.split(code) for code in re.findall(r"`((?:\.venv/bin/)?incident [^`]+|make [^`]+)`", prose(page))
        )


# The generated reference


def test_the_reference_says_what_the_code_says_now() -> None:
    assert reference.stale() == []


def test_a_stale_page_is_named_and_fails_the_check(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    for name, text in reference.pages().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(reference, "DOCS", tmp_path)
    assert reference.main(["--check"]) == 0
    (tmp_path / "profile.md").write_text("old", encoding="utf-8")
    (tmp_path / "commands.md").unlink()
    assert reference.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "profile.md is stale" in said
    assert "commands.md is stale" in said
    assert "catalogue.md" not in said
    assert reference.main([]) == 0
    assert reference.stale() == []


def test_an_unknown_argument_is_wrong_usage(capsys: Any) -> None:
    assert reference.main(["--chekc"]) == 2
    assert "usage" in capsys.readouterr().err


def test_the_reference_runs_as_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "responder.reference", "--check"], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("root", [Profile, Scenario, Catalogue])
def test_every_field_of_every_section_is_described(root: Any) -> None:
    silent = [
        f"{model.__name__}.{name}"
        for model in reference._models(root)
        for name in model.model_fields
        if name != "do" and not reference.description(model, name)
    ]
    assert silent == []


def test_every_operator_and_predicate_is_described() -> None:
    assert list(reference.OPERATOR_WORDS) == list(OPERATORS)
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", reference.pages()["catalogue.md"], re.MULTILINE)
    assert {name for name, words in rows if words} >= set(reference.PREDICATES)


def test_the_list_of_evidence_is_what_the_observations_produce() -> None:
    scaling = {f"scale.{name}" for name in scale._KEYS}
    assert set(reference.EVIDENCE) - {"STRATEGY.NAME"} == produced_keys() | scaling


def produced_keys() -> set[str]:
    """Every key in a call of `saw` or `missed`, or in a table of keys beside one, read from the source."""
    names = ["responder/domain/observations.py", "tasks/hold.py", "tasks/look.py", "tasks/probes.py"]
    names += [f"responder/domain/strategies/{name}.py" for name in ("rollback", "config")]
    key = re.compile(r"[a-z]+\.[a-z0-9_]+")
    found: set[str] = set()
    for name in names:
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr) and isinstance(node.values[-1], ast.Constant):
                ending = str(node.values[-1].value)
                if re.fullmatch(r"\.(verdict|failure|status|latency_s)", ending):
                    found |= {endpoint + ending for endpoint in ("health", "engine", "orders")}
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and key.fullmatch(node.value):
                found.add(node.value)
    return found


def test_the_words_of_a_failure_are_those_that_a_failure_has() -> None:
    source = (ROOT / "responder/domain/observations.py").read_text(encoding="utf-8")
    said = set(re.findall(r'"(\w+)"', source.split("def failure_word")[1].split("def note_orders")[0]))
    assert said - {"other", "healthy", "unknown"} <= set(reference.FAILURES)


# Examples


def test_the_example_profile_is_whole_small_and_careful() -> None:
    profile = read_profile(reference.EXAMPLE.read_text(encoding="utf-8"), source="example-profile.yaml")
    assert profile.mode is Mode.DRY_RUN
    assert "restart" in profile.strategies


def test_the_example_profile_takes_its_known_hosts_from_the_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(reference.EXAMPLE.read_text(encoding="utf-8"))
    (tmp_path / "known_hosts").write_text("10.0.0.11 ssh-ed25519 AAAA\n")
    assert read_profile_file(tmp_path / "shop.yaml").ssh.known_hosts == "10.0.0.11 ssh-ed25519 AAAA\n"


def test_the_readme_names_the_hosts_and_secrets_of_the_example() -> None:
    example = read_profile(reference.EXAMPLE.read_text(encoding="utf-8"), source="example-profile.yaml")
    text = README.read_text(encoding="utf-8")
    assert [host.address for host in example.hosts if host.address not in text] == []
    assert [name for name in example.secret_names() if f"--secret {name}=@" not in text] == []
    assert " ".join(example.strategies["restart"].command[2:]) in text  # type: ignore[index]


def test_every_yaml_block_is_valid() -> None:
    checked = 0
    for block in blocks("yaml"):
        document = yaml.safe_load(block.text)
        if isinstance(document, list):
            Catalogue.model_validate({"schema_version": 1, "hypotheses": document})
        elif "hypotheses" in document:
            Catalogue.model_validate(document)
        elif "trigger" in document:
            Scenario.model_validate(document)
        elif "receivers" in document:  # Alertmanager's own; `test_alertmanager` has the real one read it
            [webhook] = document["receivers"][0]["webhook_configs"]
            assert webhook["url"] == f"http://{LOOPBACK}:{RECEIVER_PORT}/alerts/alertmanager"
        else:  # a whole profile, or sections of one
            example = yaml.safe_load(reference.EXAMPLE.read_text(encoding="utf-8"))
            whole = yaml.safe_dump(example | document)
            assert read_profile(whole, source=block.page)
        checked += 1
    assert checked >= 3


# Links and commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_page_that_an_error_points_to_exists() -> None:
    sources = [
        file for folder in ("responder", "blocks", "tasks", "flows") for file in (ROOT / folder).rglob("*.py")
    ]
    said = re.compile(r"docs/[\w-]+\.md(?:#[\w-]+)?")
    pointed = {found for file in sources for found in said.findall(file.read_text(encoding="utf-8"))}
    pointed |= {f"docs/profile.md#{model.__name__.lower()}" for model in reference._models(Profile)[1:]}
    assert len(pointed) > 20
    broken = []
    for found in pointed:
        path, _, anchor = found.partition("#")
        if not (ROOT / path).exists() or (anchor and anchor not in anchors(ROOT / path)):
            broken.append(found)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    named = NAMED.findall(page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(LINK.findall(README.read_text(encoding="utf-8")))
    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in linked] == []


def test_the_readme_names_the_two_commands() -> None:
    lines = list(command_lines())
    assert ["make", "drill"] in lines
    assert ["make", "test"] in lines


def test_every_command_in_the_text_exists_with_its_options() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    checked = 0
    for words in command_lines():
        program = words[0].removeprefix(".venv/bin/")
        if program == "make":
            assert set(words[1:]) <= targets, words
        elif program == "incident":
            check_command(words[1:])
            checked += 1
        else:
            assert program in OTHERS, words
    assert checked > 10


def check_command(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while getattr(command, "commands", None) and words and words[0] not in ("…", "..."):
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in getattr(command, "params", ()) for option in parameter.opts}
    assert [word for word in words if word.startswith("--") and word not in known] == []


def test_every_outcome_and_mode_is_explained() -> None:
    text = (ROOT / "docs/how-it-works.md").read_text(encoding="utf-8")
    assert [word.value for word in (*Outcome, *Mode) if f"| `{word.value}` |" not in text] == []


def test_the_picture_is_there_and_small() -> None:
    picture = ROOT / "docs/pictures/run.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 300_000


def test_the_strategy_of_the_how_to_page_works_as_it_stands() -> None:
    [source] = [block.text for block in blocks("python") if block.page == "how-to.md"]
    found: dict[str, Any] = {}
    exec(compile(source, "drain.py", "exec"), found)
    drain = found["Drain"].model_validate({"command": ["drain"], "budget": {"attempts": 1, "within_minutes": 5}})
    assert "not known to be" in drain.problem(Dossier(), Target(name="gw-1", host="gw-1"))
    assert drain.can_undo
