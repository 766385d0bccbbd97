"""The corpus of the batch bench: reports in Markdown, made of the same few hundred names, the same each time.

Each document is about four kilobytes of plain English with a heading, or as many as asked for, with as many more names
in it. Names recur over the documents, so that entity resolution has something to find.
"""

from __future__ import annotations

import random
from pathlib import Path

__all__ = ["USUAL_KB", "write_corpus"]

USUAL_KB = 4
_SEED = 20260101
_HEADS = (
    "Northwind",
    "Vandermeer",
    "Castellan",
    "Brightwater",
    "Halloran",
    "Orchard",
    "Kestrel",
    "Lindqvist",
    "Marlow",
)
_TAILS = ("Systems", "Logistics", "Foods", "Energy", "Instruments", "Shipping", "Software", "Textiles", "Optics")
_FORMS = ("Inc.", "Corporation", "Ltd.", "GmbH", "Group")
_FIRST = ("Anna", "Peter", "Maria", "James", "Laura", "Thomas", "Helen", "Martin", "Julia", "Daniel", "Clara", "Henry")
_LAST = ("Keller", "Ashworth", "Moreau", "Lindgren", "Okafor", "Brandt", "Castillo", "Novak", "Whitfield", "Sato")
_PLACES = ("Basel", "Lyon", "Hamburg", "Boston", "Kyoto", "Oslo", "Lisbon", "Toronto", "Leeds", "Vienna", "Utrecht")
_TOOLS = ("PostgreSQL", "Kubernetes", "Redis", "Python", "Kafka", "Terraform", "Grafana", "Docker")
_STATED = (
    "{org} acquired {other} in {year}.",
    "{person} founded {org} in {place}.",
    "{org} is based in {place} and employs {number} people.",
    "{person} works for {org}, where the team uses {tool}.",
    "{other} depends on {tool} for its warehouses in {place}.",
    "{person} joined {other} in {year} after nine years in {place}.",
    "The contract between {org} and {other} was signed in {place}.",
)
_FILLER = (
    "The figures for the quarter were in line with what had been announced before, and nobody asked for more.",
    "Most of the work went into the parts that customers never see, which is where it had been neglected.",
    "A second review is planned for the spring; until then the old rules stay as they are.",
    "It took longer than expected, because two of the suppliers were late and a third had given up.",
    "What remains to be done is written down, with the names of those who will do it and by when.",
    "Costs rose a little, as they do every year, and the savings of last year are used up by now.",
)


def write_corpus(directory: Path, number: int, kilobytes: int = USUAL_KB) -> Path:
    """So many files of so many kilobytes below `directory`, which is made."""
    directory.mkdir(parents=True)
    for position in range(number):
        (directory / f"report{position:05}.md").write_text(_document(position, kilobytes))
    return directory


def _document(position: int, kilobytes: int) -> str:
    chance = random.Random(_SEED + position)  # noqa: S311 - no secret
    names = [f"{chance.choice(_HEADS)} {chance.choice(_TAILS)} {chance.choice(_FORMS)}" for _ in range(kilobytes)]
    people = [f"{chance.choice(_FIRST)} {chance.choice(_LAST)}" for _ in range(kilobytes)]
    paragraphs = [_paragraph(chance, names, people) for _ in range(2 * kilobytes)]
    return f"# Report {position} on {names[0]}\n\n" + "\n\n".join(paragraphs) + "\n"


def _paragraph(chance: random.Random, names: list[str], people: list[str]) -> str:
    sentences = []
    for _ in range(3):
        org, other = chance.sample(names, 2)
        said = chance.choice(_STATED).format(
            org=org,
            other=other,
            person=chance.choice(people),
            place=chance.choice(_PLACES),
            tool=chance.choice(_TOOLS),
            year=chance.randint(1990, 2025),
            number=chance.randint(20, 9000),
        )
        sentences += [said, chance.choice(_FILLER)]
    return " ".join(sentences)
