"""HTML and PDF to text; also a program, so that a hostile file can be read in a process of its own.

    python -P conversion.py KIND MAX_BYTES CPU_S  <the file  >a JSON object

The answer is `{"text": …, "title": …}`, or `{"problem": …, "detail": …}` with one of the values of `Problem`.
Nothing of the project is imported here: a child starts in the time its parser takes to load.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from pypdf import PdfReader
    from selectolax.lexbor import LexborNode

__all__ = ["PAGE_BREAK", "ConversionError", "Converted", "Problem", "html_text", "pdf_text"]

Problem = Literal["broken", "encrypted", "memory", "missing", "scanned", "too_large"]

PAGE_BREAK = "\n\f\n"
MEMORY_BYTES = 2 * 1024**3
MAX_DETAIL = 200

_DROPPED = frozenset(
    "audio button canvas head iframe math nav noscript object script select style svg "  # noqa: SIM905
    "template textarea video".split()
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog dir div dl dt "  # noqa: SIM905
    "fieldset figcaption figure footer form header hgroup hr html legend li main menu ol p pre search section summary "
    "table tbody td tfoot th thead tr ul".split()
).union(_HEADINGS)
_WHITE = re.compile(r"\s+")
_INVISIBLE = re.compile("[\u00ad\u200b\ufeff]")
# What would start a block of another kind, were it the start of a line of Markdown.
_BLOCK_SIGN = re.compile(r"\A(?=#{1,6}\s|`{3}|~{3}|\||[-=]{2,}$)")
_BACKTICKS = re.compile("`{3,}")


class Converted(NamedTuple):
    """The text of a file, and the title that it gives itself, or an empty string."""

    text: str
    title: str


class ConversionError(Exception):
    """The file has no text to give; `detail` is one line, and may be empty."""

    def __init__(self, problem: Problem, detail: str = "") -> None:
        super().__init__(problem, detail)
        self.problem = problem
        self.detail = " ".join(detail.split())[:MAX_DETAIL]


def html_text(markup: str) -> Converted:
    """The text of a page as Markdown: headings, paragraphs, list items, table rows, blocks of code.

    Scripts, styles, navigation and controls are left out. Time grows with the square of the page's depth,
    which is the parser's doing and nothing that Python can interrupt. Raises ConversionError.
    """
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError as exc:
        raise ConversionError("missing", "selectolax") from exc
    try:
        page = LexborHTMLParser(markup)
        title = page.css_first("head > title")
        writer = _MarkdownWriter()
        if page.root is not None:
            _walk(page.root, writer)
        return Converted(writer.text(), _clean(title.text()) if title is not None else "")
    except Exception as exc:
        raise ConversionError("broken", f"{type(exc).__name__}: {exc}") from exc


def _walk(top: LexborNode, writer: _MarkdownWriter) -> None:
    """Enter and leave every node below `top` in order, without recursion: pages nest as deep as they like."""
    node = top
    while True:
        child = node.first_child if writer.enter(node) else None
        if child is not None:
            node = child
            continue
        writer.leave(node)
        while (following := node.next) is None or node.mem_id == top.mem_id:
            parent = node.parent
            if node.mem_id == top.mem_id or parent is None:
                return
            node = parent
            writer.leave(node)
        node = following


class _MarkdownWriter:
    """Collects a line of text until a block begins or ends, then writes it down as what it is."""

    def __init__(self) -> None:
        self.blocks: list[tuple[str, str]] = []
        self.inline: list[str] = []
        self.cells: list[str] = []
        self.code: list[str] | None = None
        self.mark = ""

    def enter(self, node: LexborNode) -> bool:
        """Begin a node; whether to go on with what is in it."""
        tag = node.tag or ""
        if tag == "-text":
            self._text(node.text_content or "")
        elif tag in _DROPPED:
            return False
        elif tag == "br":
            (self.inline if self.code is None else self.code).append("\n")
        elif tag in _BLOCKS:
            self._begin(tag)
        elif tag == "code" and self.code is None:
            return not self._inline_code(node)
        return True

    def leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag not in _BLOCKS:
            return
        if tag == "pre":
            self._end_code()
        elif tag in ("td", "th"):
            self.cells.append(" ".join(self._lines()))
        else:
            self._flush()
        if tag in ("tr", "table"):
            self._row()
        if tag == "li" or tag in _HEADINGS:
            self.mark = ""

    def text(self) -> str:
        self._end_code()
        self._flush()
        parts: list[str] = []
        last = ""
        for kind, block in self.blocks:
            tight = kind == last and kind in ("item", "row")
            parts.append(("\n" if tight else "\n\n") + block)
            last = kind
        return "".join(parts)[2:]

    def _begin(self, tag: str) -> None:
        self._flush()
        if tag == "pre" and self.code is None:
            self.code = []
        elif tag in _HEADINGS:
            self.mark = "#" * _HEADINGS[tag] + " "
        elif tag == "li":
            self.mark = "- "
        elif tag in ("table", "tr"):
            # A table inside a cell: the row around it is written as far as it goes.
            self._row()

    def _text(self, text: str) -> None:
        if self.code is not None:
            self.code.append(text)
        else:
            self.inline.append(_WHITE.sub(" ", text))

    def _inline_code(self, node: LexborNode) -> bool:
        """Whether `node` was a piece of code, and no tag that was left open around half the page."""
        child = node.first_child
        if child is None or child.tag != "-text" or child.next is not None:
            return False
        code = " ".join((child.text_content or "").split())
        self.inline.append(f"`{code}`" if code and "`" not in code else code)
        return True

    def _lines(self) -> list[str]:
        lines = [_clean(line) for line in "".join(self.inline).split("\n")]
        self.inline.clear()
        return [line for line in lines if line]

    def _flush(self) -> None:
        if self.code is not None:
            return
        lines = self._lines()
        if not lines:
            return
        if self.mark.startswith("#"):
            self.blocks.append(("heading", self.mark + " ".join(lines)))
        else:
            kind = "item" if self.mark else "paragraph"
            self.blocks.append((kind, self.mark + "\n".join(_BLOCK_SIGN.sub(r"\\", line, 1) for line in lines)))
        self.mark = ""

    def _end_code(self) -> None:
        code, self.code = self.code, None
        block = "".join(code or ()).strip("\n")
        if block.strip():
            fence = "`" * max(3, 1 + max((len(run) for run in _BACKTICKS.findall(block)), default=0))
            self.blocks.append(("code", f"{fence}\n{block}\n{fence}"))

    def _row(self) -> None:
        cells, self.cells = [cell for cell in self.cells if cell], []
        if len(cells) == 1:
            self.blocks.append(("paragraph", _BLOCK_SIGN.sub(r"\\", cells[0], 1)))
        elif cells:
            self.blocks.append(("row", "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"))


def _clean(text: str) -> str:
    return " ".join(_INVISIBLE.sub("", text).split())


def pdf_text(data: bytes, max_bytes: int) -> Converted:
    """The text of all pages, with a PAGE_BREAK between each two; raises ConversionError.

    `max_bytes` bounds the text. Time and memory are whatever the file makes of them: call it in a child.
    """
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError
    except ImportError as exc:
        raise ConversionError("missing", "pypdf") from exc
    try:
        reader = PdfReader(BytesIO(data))
        # Most encrypted files only forbid printing, and open with an empty password.
        if reader.is_encrypted and not reader.decrypt(""):
            raise ConversionError("encrypted")
        text = PAGE_BREAK.join(_pages(reader, max_bytes))
        title = _pdf_title(reader)
    except (ConversionError, MemoryError):
        raise
    except DependencyError as exc:
        raise ConversionError("encrypted", "AES needs pip install 'holdfast[encryption]'") from exc
    except Exception as exc:
        raise ConversionError("broken", f"{type(exc).__name__}: {exc}") from exc
    if not text.strip():
        raise ConversionError("scanned")
    return Converted(text, title)


def _pages(reader: PdfReader, max_bytes: int) -> Iterator[str]:
    left = max_bytes
    for number, page in enumerate(reader.pages, start=1):
        try:
            text = _valid(page.extract_text()).replace("\f", "\n").rstrip()
        except MemoryError:
            raise
        except Exception as exc:
            raise ConversionError("broken", f"page {number}: {type(exc).__name__}: {exc}") from exc
        left -= len(text.encode()) + len(PAGE_BREAK)
        if left < 0:
            raise ConversionError("too_large", f"page {number}")
        yield text


def _pdf_title(reader: PdfReader) -> str:
    # What a program wrote about the file is no reason to refuse the file.
    with suppress(Exception):
        return _clean(_valid(str((reader.metadata and reader.metadata.title) or "")))
    return ""


def _valid(text: str) -> str:
    """`text` as a database takes it: no NUL; halves of surrogate pairs joined, or replaced."""
    return text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _confine(cpu_s: int) -> None:
    """Have the kernel end this process where its parent cannot any more, and refuse it too much memory."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _main(kind: str, max_bytes: str, cpu_s: str) -> None:
    _confine(int(cpu_s))
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    readers: dict[str, Callable[[bytes], Converted]] = {
        "html": lambda data: html_text(data.decode()),
        "pdf": lambda data: pdf_text(data, int(max_bytes)),
    }
    answer: dict[str, str]
    try:
        answer = readers[kind](sys.stdin.buffer.read())._asdict()
    except ConversionError as exc:
        answer = {"problem": exc.problem, "detail": exc.detail}
    except MemoryError:
        answer = {"problem": "memory", "detail": ""}
    sys.stdout.buffer.write(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace"))


if __name__ == "__main__":
    _main(*sys.argv[1:])
