"""Stage 1: a document cut into headings, paragraphs, list items, table rows and code, each with its sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.workflows.extraction.markup import mask
from orchestrator.workflows.extraction.records import Chunk
from orchestrator.workflows.extraction.sentences import sentence_spans

__all__ = ["chunk_document"]

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ITEM = re.compile(r"[ \t]{0,40}(?:[-*+•]|\d{1,3}[.)])[ \t]{1,20}(?:\[[ xX]\][ \t]{1,8})?(?=\S)")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]{1,20}(?=\S)")
_UNDERLINE = re.compile(r" {0,3}(={2,}|-{2,})\s*$")
_TABLE_RULE = re.compile(r"[\s|:-]+$")
_RULE = re.compile(r"\s{0,3}(?:[-*_=]\s?){3,}$")
_CODE_SIGN = re.compile(
    r"[{}=;$<>|\\│►]|──|\w\(|--\w|\S {3,80}\S|^\s*(?:pip|npm|git|docker|curl|cd|export|import|from)\s"
)


def chunk_document(text: str) -> list[Chunk]:
    """Cut `text` into chunks, in order and without overlap."""
    return _Scanner(text).run()


class _Scanner:
    """Reads line by line; at most one block is open at a time."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.chunks: list[Chunk] = []
        self.sections: list[tuple[int, str]] = []
        self.kind = ""
        self.start = self.end = 0
        self.fence = ""

    def run(self) -> list[Chunk]:
        for start, line in self._lines_after_front_matter():
            if self.fence or _FENCE.match(line):
                self._fenced(start, line)
            elif not line.strip():
                self._blank()
            else:
                self._block_line(start, line)
        self._close()
        return self.chunks

    def _lines_after_front_matter(self) -> Iterator[tuple[int, str]]:
        position = 0
        if self.text.startswith("---\n"):
            closing = self.text.find("\n---", 3, 20_000)
            if closing > 0:
                position = closing + 4
                self._open("code", 0, position)
                self._close()
        for match in _LINE.finditer(self.text, position):
            yield match.start(), match[0].rstrip("\r\n")

    def _fenced(self, start: int, line: str) -> None:
        if not self.fence:
            self._close()
            opening = _FENCE.match(line)
            self.fence = opening[1] if opening else ""
            self._open("code", start, start + len(line))
            return
        self.end = start + len(line)
        if line.strip().startswith(self.fence) and not line.strip().strip(self.fence[0]):
            self.fence = ""
            self._close()

    def _blank(self) -> None:
        # An indented example may hold blank lines; anything else ends at one.
        if self.kind != "indented":
            self._close()

    def _block_line(self, start: int, line: str) -> None:
        end = start + len(line)
        if self._continues_indented(line):
            self.end = end
        elif self._is_example(line):
            self._close()
            self._open("indented", start, end)
        elif heading := _ATX.match(line):
            self._close()
            self._heading(start + heading.end(), end, len(heading[1]))
        elif self.kind == "paragraph" and (rule := _UNDERLINE.match(line)) and self._is_one_line():
            self._underlined(1 if rule[1].startswith("=") else 2)
        elif _RULE.match(line[:200]):
            self._close()
        elif line.lstrip().startswith("|"):
            self._close()
            if not _TABLE_RULE.match(line):
                self._open("table_row", start, end)
        elif item := _ITEM.match(line):
            self._close()
            self._open("list_item", start + item.end(), end)
        elif self.kind in ("paragraph", "list_item", "quote"):
            self.end = end
        else:
            self._close()
            self._open("quote" if line.lstrip().startswith(">") else "paragraph", start, end)

    def _continues_indented(self, line: str) -> bool:
        return self.kind == "indented" and line.startswith(("    ", "\t"))

    def _is_example(self, line: str) -> bool:
        """Whether an indented line opens a block of code: prose may be indented too, so it must look like code."""
        if self.kind not in ("", "indented") or not line.startswith(("    ", "\t")):
            return False
        after_item = bool(self.chunks) and self.chunks[-1]["kind"] == "list_item"
        return not after_item and not _ITEM.match(line) and _CODE_SIGN.search(line[:400]) is not None

    def _is_one_line(self) -> bool:
        return "\n" not in self.text[self.start : self.end]

    def _underlined(self, level: int) -> None:
        start, end = self.start, self.end
        self.kind = ""
        self._heading(start, end, level)

    def _heading(self, start: int, end: int, level: int) -> None:
        title = " ".join(mask(self.text[start:end]).rstrip("# \t").split())
        if "\ue000" in title:
            title = " ".join(self.text[start:end].replace("`", "").rstrip("# \t").split())
        self.sections = [entry for entry in self.sections if entry[0] < level]
        self.sections.append((level, title[:120]))
        self._open("heading", start, end)
        self._close()

    def _open(self, kind: str, start: int, end: int) -> None:
        self.kind, self.start, self.end = kind, start, end

    def _close(self) -> None:
        if not self.kind:
            return
        kind = "code" if self.kind == "indented" else self.kind
        block = self.text[self.start : self.end]
        sentences: list[list[int]] = []
        if kind != "code":
            sentences = [[self.start + a, self.start + b] for a, b in sentence_spans(block, mask(block))]
        section = " > ".join(title for _, title in self.sections)
        self.chunks.append(Chunk(start=self.start, end=self.end, kind=kind, section=section, sentences=sentences))
        self.kind = ""
