"""Files that people write: every mistake names its line, and no file can hang or crash the reader."""

import time
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.domain.base import Frozen
from responder.domain.documents import load_document
from responder.domain.errors import ProfileError
from responder.domain.hypothesis import read_catalogue
from responder.domain.profile import read_profile
from tests.factories import hypothesis_data, profile_text


class Wheel(Frozen):
    size: int
    tyre: str = "plain"


class Vehicle(Frozen):
    schema_version: int
    name: str
    wheels: tuple[Wheel, ...] = ()
    spare: dict[str, Wheel] = {}  # noqa: RUF012
    engine: Wheel | None = None
    either: Wheel | int | None = None
    built: date | None = None
    lights: str = ""


def read(text: str) -> Vehicle:
    return load_document(text, Vehicle, source="car.yaml")


def refusal(text: str) -> str:
    with pytest.raises(ProfileError) as caught:
        read(text)
    return str(caught.value)


HEAD = "schema_version: 1\nname: car\n"  # what follows begins on line 3

MISTAKES = {
    "unknown key": ("wheeels: []\n", 3, "`wheeels`: no such key; the nearest is `wheels`"),
    "unknown key in a list": ("wheels:\n  - size: 1\n  - size: 2\n    tyer: wide\n", 6, "nearest is `tyre`"),
    "unknown key in a dict's value": ("spare:\n  boot:\n    size: 3\n    siez: 4\n", 6, "nearest is `size`"),
    "unknown key below an optional": ("engine:\n  size: 1\n  tire: x\n", 5, "nearest is `tyre`"),
    "unknown key in a union": ("either:\n  size: 1\n  tire: x\n", 5, "nearest is `tyre`"),
    "unknown key in flow style": ("wheels: [{size: 1},\n  {size: 2, tyrre: x}]\n", 4, "nearest is `tyre`"),
    "missing in a list": ("wheels:\n  - size: 1\n  - tyre: wide\n", 5, "`wheels.1.size`: required, but missing"),
    "wrong type": ("wheels:\n  - size: big\n", 4, "`wheels.0.size`: Input should be a valid integer"),
    "list for a mapping": ("engine: [1]\n", 3, "`engine`"),
    "text for a list": ("wheels: round\n", 3, "`wheels`"),
    "duplicate key": ("lights: on\nwheels: []\nlights: off\n", 5, "`lights` stands here twice"),
    "duplicate key deep down": ("wheels:\n  - size: 1\n    size: 2\n", 5, "`size` stands here twice"),
    "duplicate key in other quotes": ("lights: on\n'lights': off\n", 4, "`lights` stands here twice"),
    "tab as indentation": ("wheels:\n\t- size: 1\n", 4, "not valid YAML"),
    "bracket left open": ("wheels: [1, 2\nlights: on\n", 4, "not valid YAML"),
    "undefined alias": ("engine: *nothing\n", 3, "undefined alias"),
    "a tag that builds objects": ("name2: x\nlights: !!python/object/apply:os.system [id]\n", 4, "not valid YAML"),
    "a control character": ("lights: a\x07b\n", 3, "not valid YAML"),
    "a NUL": ("wheels: []\nlights: \x00\n", 4, "not valid YAML"),
    "a lone surrogate": ("lights: \ud800\n", 3, "not valid YAML"),
    "a list as a key": ("? [a, b]\n: c\n", 3, "not valid YAML"),
}


@pytest.mark.parametrize(("text", "line", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_line_and_the_way_out(text: str, line: int, words: str) -> None:
    told = refusal(HEAD + text)
    assert any(one.startswith(f"car.yaml, line {line}: ") and words in one for one in told.splitlines()), told


def test_every_mistake_gets_a_line_of_its_own() -> None:
    told = refusal("schema_version: 1\nwheels:\n  - {size: x}\n  - {seize: 1}\n").splitlines()
    assert [one.split(":")[0] for one in told] == [f"car.yaml, line {line}" for line in (1, 3, 4, 4)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a mapping"),
        ("null", "expected a mapping"),
        ("- schema_version: 1", "expected a mapping"),
        ("just words", "expected a mapping"),
        ("name: car", "schema_version is None"),
        ("schema_version: 2\nname: car", "schema_version is 2; this release reads version 1"),
        ("schema_version: '1'\nname: car", "schema_version is '1'"),
        ("# a comment\n\nschema_version: 99", "line 3"),
        ("schema_version: 1\nname: a\n---\nschema_version: 1\nname: b\n", "line 3: not valid YAML"),
        (HEAD + "built: 2024-02-31\n", "day is out of range"),
        (HEAD + "wheels: [{size: !!int many}]\n", "not valid YAML"),
    ],
)
def test_what_is_no_document_of_this_version_is_refused(text: str, words: str) -> None:
    assert words in refusal(text)


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [ha, ha]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return HEAD + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        laughs(12),
        HEAD + "wheels: &all [*all]\n",
        HEAD + "wheels: &all\n  deeper: *all\n",
        HEAD + "lights: " + "[" * 20_000 + "]" * 20_000 + "\n",
        HEAD + "lights: " + "{a: " * 20_000 + "}" * 20_000 + "\n",
        HEAD + "".join(f"{' ' * depth}k:\n" for depth in range(2_000)),
    ],
    ids=["laughs", "a list in itself", "a mapping in itself", "deep lists", "deep mappings", "deep indents"],
)
def test_a_bomb_is_refused_quickly(text: str) -> None:
    began = time.monotonic()
    told = refusal(text)
    assert "too large" in told or "too deeply" in told or "not valid YAML" in told
    assert time.monotonic() - began < 10


def test_anchors_and_merged_keys_may_be_used() -> None:
    car = read(HEAD + "engine: &one {size: 1, tyre: wide}\nwheels: [*one, *one, {<<: *one, size: 3}]\n")
    assert [(wheel.size, wheel.tyre) for wheel in car.wheels] == [(1, "wide"), (1, "wide"), (3, "wide")]


@pytest.mark.parametrize("text", ["22:00", "1:30", "12:30:45.5", "-1:00"])
def test_a_time_of_day_is_text_and_not_a_number_to_the_base_of_sixty(text: str) -> None:
    assert read(f"{HEAD}lights: {text}\n").lights == text


def test_numbers_dates_and_booleans_are_read_as_ever() -> None:
    car = read(HEAD + "wheels: [{size: 0x10}, {size: 1_000}, {size: -3}]\nbuilt: 2024-02-29\n")
    assert [wheel.size for wheel in car.wheels] == [16, 1000, -3]
    assert car.built == date(2024, 2, 29)


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    with pytest.raises(ProfileError) as caught:
        read(HEAD + "wheels:\n  - {size: hunter2-hunter2}\n")
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}{caught.value.__cause__!r}"


@given(st.text(max_size=300) | st.text(alphabet="ab:-[]{}&*<>!|?'\"#% \n\t01,", max_size=60))
@settings(max_examples=300)
def test_any_text_is_a_document_or_a_profile_error(text: str) -> None:
    for candidate in (HEAD + text, HEAD + "wheels:\n  - " + text, HEAD + "lights: " + text):
        try:
            result = read(candidate).name
        except ProfileError as error:
            result = str(error).partition(",")[0].partition(":")[0]
        assert result.startswith("car")


def test_profiles_and_catalogues_are_read_by_the_same_rules() -> None:
    with pytest.raises(ProfileError, match=r"p\.yaml, line \d+: `hosts\.0\.adress`.*nearest is `address`"):
        read_profile(profile_text(hosts=[{"name": "a", "adress": "b", "address": "c"}]), source="p.yaml")
    row = hypothesis_data("cause-one", stratgy="restart")
    with pytest.raises(
        ProfileError, match=r"c\.yaml, line 1: `hypotheses\.0\.stratgy`.*nearest is `strategy`"
    ) as at:
        read_catalogue(f"{{schema_version: 1, hypotheses: [{row}]}}", source="c.yaml")
    assert at.value.page == "docs/catalogue.md#the-file"


@pytest.mark.parametrize(
    ("mistake", "page"),
    [
        ("wheeels: []\n", "cars.md"),
        ("name: [\n", "cars.md"),
        ("wheels: round\n", "cars.md"),
        ("wheels:\n  - size: big\n", "cars.md#wheel"),
        ("wheels:\n  - size: 1\n    tyer: wide\n", "cars.md#wheel"),
        ("engine: [1]\n", "cars.md#wheel"),
        ("spare:\n  boot:\n    siez: 4\n", "cars.md#wheel"),
    ],
)
def test_an_error_points_to_the_section_of_the_first_mistake(mistake: str, page: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load_document(HEAD + mistake, Vehicle, source="car.yaml", page="cars.md")
    assert caught.value.page == page
    with pytest.raises(ProfileError) as caught:
        load_document(HEAD + mistake, Vehicle, source="car.yaml", page="cars.md#the-file")
    assert caught.value.page == "cars.md#the-file"
