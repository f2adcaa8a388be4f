"""The pages of the documentation, and what stands in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"(?:^ *<!-- (?P<mark>.+?) -->\n)?^(?P<margin> *)```(?P<language>\w+)\n(?P<text>.*?)^ *```$", re.M | re.S
)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the words of an invisible comment right before it."""

    page: str
    language: str
    text: str
    mark: str

    @property
    def commands(self) -> list[str]:
        """What is typed into a shell: the whole of a script, or each line of a session that has the prompt."""
        if self.language == "bash":
            return [self.text]
        return [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page in their order, without the margin that lists give them."""
    found = []
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        text = re.sub(f"^{match['margin']}", "", match["text"], flags=re.MULTILINE)
        found.append(Block(page.name, match["language"], text, match["mark"] or ""))
    return found


def blocks(*languages: str) -> Iterator[Block]:
    """The fenced blocks of all pages in these languages."""
    for page in PAGES:
        yield from (block for block in blocks_of(page) if block.language in languages)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(prose(page))}
