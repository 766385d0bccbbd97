"""Pages as lists of code blocks, and pages with parts that are generated.

A generated part stands between two comments, and what is between them is never edited by hand:

    <!-- generated: settings postgres_host postgres_port -->
    …
    <!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

__all__ = ["DOCS", "ROOT", "Block", "all_pages", "blocks_of", "regenerated"]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# In a block, the comment that says why nobody runs it here, `# needs Docker`; or a command that says so by itself.
_NEEDS = re.compile(r"^\s*(?:#|--|//) (needs .+)$|^\s*(docker|kubectl) ", re.MULTILINE)
# What an indented block begins with where it is for a shell. Every other one is shown, and not for anybody to run.
_COMMAND = re.compile(
    r"(?:[A-Z_]+=\S* )*(?:\./scripts/\w+|holdfast|curl|python3?|pip|docker|kubectl|cp|cd|git|export|tar|kill) "
    r"|\./scripts/\w+$|(?:[A-Z_]+=\S* )*holdfast$"
)
_PART = re.compile(r"(<!-- generated: (\w+) ?([^>]*?) ?-->\n)(.*?)(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code: where it is, its language (`text`: only shown), and what it needs that is not here."""

    page: str
    line: int
    language: str
    text: str
    needs: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def all_pages() -> list[Path]:
    """Every page that is for users."""
    first = [ROOT / name for name in ("README.md", "SECURITY.md") if (ROOT / name).exists()]
    return first + sorted(DOCS.glob("*.md"))


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, fenced and indented ones, in their order."""
    name = page.relative_to(ROOT).as_posix()
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            language = token.info.split()[0] if token.info else _guessed(token.content)
            needs = _NEEDS.search(token.content)
            found.append(
                Block(name, (token.map or [0])[0] + 1, language, token.content, needs[0].strip() if needs else "")
            )
    return found


def _guessed(text: str) -> str:
    """An indented block is for a shell if its first line, or what follows a comment, is a command."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return "sh" if _COMMAND.match(line) else "text"
    return "text"


def regenerated(text: str, make: Callable[[str, list[str]], str]) -> str:
    """The page with each generated part as `make`, given its kind and its words, makes it now."""
    return _PART.sub(lambda part: f"{part[1]}\n{make(part[2], part[3].split())}\n{part[5]}", text)
