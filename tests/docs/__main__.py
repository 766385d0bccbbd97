"""`python -m tests.docs [--check]`: write the generated parts of the pages, or only say which are out of date."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.docs import http
from tests.docs.pages import ROOT, all_pages, regenerated
from tests.docs.settings import settings_table

__all__ = ["main", "outdated"]


def main(arguments: Sequence[str]) -> int:
    """0 where all pages are as they should be, or are now; with --check 1 where one is not."""
    check = list(arguments) == ["--check"]
    if arguments and not check:
        print(f"error: {' '.join(arguments)!r}: it takes --check, or nothing", file=sys.stderr)
        return 2
    found = list(outdated())
    for page, text in found:
        name = page.relative_to(ROOT)
        if check:
            print(f"{name} is out of date: run ./scripts/docs", file=sys.stderr)
        else:
            page.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if check and found else 0


def outdated() -> Iterator[tuple[Path, str]]:
    """The pages that do not say what the code says, with what they should be."""
    logging.disable(logging.WARNING)  # the saver in use says so
    try:
        api = http.document()
    finally:
        logging.disable(logging.NOTSET)

    def make(kind: str, words: list[str]) -> str:
        made = {
            "settings": lambda: settings_table(words),
            "calls": lambda: http.calls(api, *words),
            "errors": lambda: http.errors(api),
            "answers": lambda: http.answers(api),
        }
        return made[kind]().strip() + "\n"

    for page in all_pages():
        text = page.read_text(encoding="utf-8")
        if (now := regenerated(text, make)) != text:
            yield page, now


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
