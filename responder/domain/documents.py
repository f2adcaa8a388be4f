"""Files that people write: YAML text in, a validated model out, and errors that name the place.

Every such file carries `schema_version`; an unknown version is refused rather than guessed at.
"""

import difflib
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from responder.domain.errors import ProfileError

Model = TypeVar("Model", bound=BaseModel)
SCHEMA_VERSION = 1
_MOST_NODES = 50_000  # far above any document that people write, far below a bomb of aliases


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without numbers to the base of 60: `22:00` is a time, not 1320."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [
            (
                tag,
                re.compile(rf"(?!.*:)(?:{pattern.pattern})", re.VERBOSE)
                if tag[-3:] in ("int", "oat")
                else pattern,
            )
            for tag, pattern in resolvers
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load_document(text: str, model: type[Model], *, source: str, page: str = "") -> Model:
    """Parse `text` (YAML) as `model`.

    Raises `ProfileError` with one line for each mistake: source, line, key, what is wrong and, for an
    unknown key, the nearest key that exists. It points to `page`, the documentation of the file; one without
    an anchor has a section for each model, and the first mistake's is meant.
    """
    try:
        return _load(text, model, source, page)
    except ProfileError as error:
        error.page = error.page or page
        raise


def _load(text: str, model: type[Model], source: str, page: str) -> Model:
    root, data = _parse(text, source)
    if not isinstance(data, dict):
        raise ProfileError(f"{source}: expected a mapping with `schema_version: {SCHEMA_VERSION}` at the top")
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ProfileError(
            f"{source}, line {_line(root, ('schema_version',))}: schema_version is {version!r}; "
            f"this release reads version {SCHEMA_VERSION}"
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        mistakes = [_explain(root, model, mistake, source) for mistake in error.errors()]
        if page and "#" not in page:
            page += _anchor(model, error.errors()[0]["loc"])
        raise ProfileError("\n".join(mistakes), page=page) from error


def _parse(text: str, source: str) -> tuple[yaml.Node | None, Any]:
    """The document as nodes, which know their lines, and as data. Raises `ProfileError`."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        _refuse_duplicate_keys(root, source)
        return root, loader.construct_document(root) if root else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ProfileError(f"{source}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = f", line {text.count(chr(10), 0, error.position) + 1}"
        raise ProfileError(f"{source}{line}: not valid YAML: {error.reason}") from error
    except ValueError as error:  # a scalar like 2024-02-31, which looks like a date and is none
        raise ProfileError(f"{source}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise ProfileError(f"{source}: nested too deeply") from error


def _explain(root: yaml.Node | None, model: type[BaseModel], mistake: Any, source: str) -> str:
    location = tuple(mistake["loc"])
    where = ".".join(str(part) for part in location) or "the document"
    text = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.0)
        text = "no such key" + (f"; the nearest is `{near[0]}`" if near else "")
    elif mistake["type"] == "missing":
        text = "required, but missing"
    return f"{source}, line {_line(root, location)}: `{where}`: {text}"


def _line(node: yaml.Node | None, location: tuple[int | str, ...]) -> int:
    """The line (from 1) of the deepest part of `location` that the document has."""
    line = node.start_mark.line + 1 if node else 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                continue  # a union's tag in the location, not a key of the file
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _anchor(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """`#ssh` for what is wrong in or with an `Ssh`: the deepest section there; nothing for the top."""
    for depth in range(len(location), 0, -1):
        sections = [node["title"] for node in _nodes_at(model, location[:depth]) if "properties" in node]
        if sections:
            return f"#{sections[0].lower()}" if sections[0] != model.__name__ else ""
    return ""


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed at `location`."""
    return [key for node in _nodes_at(model, location) for key in node.get("properties", {})]


def _nodes_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[dict[str, Any]]:
    """What may stand at `location`, found by walking the model's JSON schema."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    nodes: list[dict[str, Any]] = [schema]
    for part in location:
        following: list[dict[str, Any]] = []
        for node in _resolved(nodes, definitions):
            if isinstance(part, int):
                following += [node["items"]] if "items" in node else node.get("prefixItems", [])
            elif part in node.get("properties", {}):
                following.append(node["properties"][part])
            elif isinstance(node.get("additionalProperties"), dict):
                following.append(node["additionalProperties"])
        nodes = following or nodes
    return _resolved(nodes, definitions)


def _resolved(nodes: list[dict[str, Any]], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    pending = list(nodes)
    while pending:
        node = pending.pop(0)
        if "$ref" in node:
            pending.append(definitions[node["$ref"].rsplit("/", 1)[-1]])
            continue
        found.append(node)
        pending += node.get("anyOf", []) + node.get("allOf", []) + node.get("oneOf", [])
    return found


def _refuse_duplicate_keys(root: yaml.Node | None, source: str) -> None:
    for count, node in enumerate(_walk(root)):
        if count > _MOST_NODES:
            raise ProfileError(f"{source}: too large once its aliases are written out")
        seen: set[str] = set()
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        for key in (key for key, _ in pairs if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise ProfileError(
                    f"{source}, line {key.start_mark.line + 1}: `{key.value}` stands here twice; keep one"
                )
            seen.add(key.value)


def _walk(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Every node, as often as aliases repeat it; without end where one contains itself."""
    pending = [root] if root else []
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, yaml.MappingNode):
            pending += [value for _, value in reversed(node.value)]
        elif isinstance(node, yaml.SequenceNode):
            pending += reversed(node.value)
