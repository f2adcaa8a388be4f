"""A site's own templates: used in the place of ours, checked before they are relied upon, never in the way."""

from importlib.resources import files
from pathlib import Path

import pytest

from responder.domain import site_templates
from responder.domain.notices import SITE_TEMPLATES, render_notice, shipped_templates
from responder.domain.site_templates import _initial, template_problems

SHIPPED = Path(str(files("responder.domain"))) / "templates"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(SITE_TEMPLATES, str(tmp_path))
    return tmp_path


def problems(folder: Path) -> list[str]:
    return [problem.removeprefix(f"{folder}/") for problem in template_problems(str(folder))]


def test_a_sites_template_takes_the_place_of_ours_and_the_others_stay(folder):
    (folder / "initial_notice.txt.j2").write_text("Störung: {{ notice.description | plain(200) }}\n")
    assert problems(folder) == []
    assert render_notice(_initial()) == "Störung: the gateway does not answer"
    assert render_notice(site_templates._update()).startswith("INCIDENT UPDATE: the gateway does not answer")


def test_there_is_sample_data_for_every_template_and_each_shipped_one_passes(folder):
    for name in shipped_templates():
        (folder / name).write_text((SHIPPED / name).read_text())
    assert set(site_templates._SAMPLES) == set(shipped_templates())
    assert problems(folder) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ok\n{{ notice.description | plain }\n", "line 2: TemplateSyntaxError"),
        ("ok\n\n{{ notice.nothing | plain }}\n", "line 3: UndefinedError"),
        ("{{ notice.description }}\n", "line 1: TypeError: a value reaches a text without"),
        ("ok\n{{ notice.__class__.__mro__ | plain }}\n", "line 2: SecurityError"),
        ("ok\n{{ 1 / 0 }}\n", "line 2: ZeroDivisionError"),
        ("{% include 'absent' %}\n", "line 1: TemplateNotFound"),
    ],
)
def test_a_mistake_is_named_with_file_and_line_and_our_own_words_are_used_meanwhile(folder, text, said, caplog):
    ours = render_notice(_initial())
    (folder / "initial_notice.txt.j2").write_text(text)
    [problem] = problems(folder)
    assert problem.startswith(f"initial_notice.txt.j2, {said}")
    assert render_notice(_initial()) == ours
    assert "cannot be used" in caplog.text


def test_a_template_that_nothing_asks_for_is_named_with_the_nearest(folder):
    (folder / "inital_notice.txt.j2").write_text("x")
    assert problems(folder) == [
        "inital_notice.txt.j2: there is no template of that name; the nearest is initial_notice.txt.j2"
    ]


def test_a_folder_that_is_not_there_is_named():
    assert template_problems("/nowhere/at/all") == ["/nowhere/at/all: no such folder of templates"]


def test_a_site_cannot_lose_a_tickets_marker(folder):
    (folder / "ticket.md.j2").write_text("{{ action | issue }}\n")
    ticket = site_templates._ticket()
    assert ticket.text.startswith("Look into it")
    assert ticket.marker in ticket.text
