"""Which names are the same thing: pairs written by hand, and what holds for all pairs."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.batches.resolution import MERGE_AT, score
from orchestrator.batches.spelling import MAX_CHARS, block_keys, clean, normal_form

SAME = [
    ("organization", "ACME Corp.", "Acme Corporation"),
    ("organization", "ACME Corp.", "ACME"),
    ("organization", "Acme, Inc.", "acme"),
    ("organization", "Deutsche Telekom AG", "Deutsche Telecom"),
    ("organization", "Foo Bar GmbH & Co. KG", "Foo-Bar"),
    ("organization", "I.B.M.", "IBM"),
    ("organization", "Johnson & Johnson", "Johnson and Johnson"),
    ("organization", "Société Générale S.A.", "Societe Generale"),
    ("organization", "Novo Nordisk A/S", "Novo Nordisk"),
    ("organization", "Coca-Cola Company", "Coca Cola"),
    ("organization", "Face Book", "Facebook"),
    ("organization", "The World Bank", "World Bank"),
    ("organization", "Microsoft’s", "Mircosoft Corp"),
    ("organization", "Max-Planck-Gesellschaft", "Max Planck Gesellschaft"),
    ("organization", "Nestlé", "Nestle SA"),
    ("organization", "Limited", "limited"),
    ("technology", "PostgreSQL", "Postgres"),
    ("technology", "PostgreSQL", "PostgresSQL"),
    ("technology", "Node.js", "NodeJS"),
    ("technology", "Kubernetes", "k8s"),
    ("technology", "Kubernetes", "Kubernets"),
    ("technology", "GPT-4", "GPT 4"),
    ("product", "ThinkPad X1", "Thinkpad  x1"),
    ("person", "Dr. Jürgen Müller", "Juergen Mueller"),
    ("person", "José García", "Jose Garcia"),
    ("person", "Smith, John", "John Smith"),
    ("person", "J.R.R. Tolkien", "J. R. R. Tolkien"),
    ("person", "Prof. Dr. Ada Lovelace", "Ada Lovelace"),
    ("person", "Jean-Luc Picard", "Jean Luc Picard"),
    ("person", "Mary Ann Smith", "Maryann Smith"),
    ("place", "Sao Paulo", "São Paulo"),
    ("place", "Zürich", "Zuerich"),
    ("place", "Düsseldorf", "Dusseldorf"),
    ("place", "U.S.A.", "United States of America"),
    ("concept", "Databases", "database"),
    ("concept", "knowledge graph", "Knowledge Graphs"),
    ("url", "https://Example.com/", "https://example.com"),
    ("name", "Acme Corp", "ACME"),
    ("name", "東京タワー", "東京 タワー"),
]
DIFFERENT = [
    ("person", "J. Smith", "John Smith"),
    ("person", "J. Smith", "Jane Smith"),
    ("person", "John Smith", "Jane Smith"),
    ("person", "John Smith", "Jon Smith"),
    ("person", "Smith", "John Smith"),
    ("person", "George W. Bush", "George H. W. Bush"),
    ("person", "John F. Kennedy", "John Kennedy"),
    ("person", "Christina Anderson", "Christina Andersen"),
    ("person", "Michael Miller", "Michal Miller"),
    ("person", "Hans Bauer", "Hans Baur"),
    ("place", "North Korea", "South Korea"),
    ("place", "Austria", "Australia"),
    ("place", "Colombia", "Columbia"),
    ("place", "Kensington", "Kennington"),
    ("place", "Niger", "Nigeria"),
    ("place", "Iran", "Iraq"),
    ("place", "Washington", "Washington State"),
    ("organization", "University of Washington", "Washington University"),
    ("organization", "Bank of Austria", "Bank of Australia"),
    ("organization", "University of Gambia", "University of Zambia"),
    ("organization", "New York Jets", "New York Mets"),
    ("organization", "Acme", "Acme Holdings"),
    ("organization", "Acme Widgets", "Acme Gadgets"),
    ("organization", "First National Bank", "Second National Bank"),
    ("organization", "Studio 54", "Studio 55"),
    ("organization", "Northwestern University", "Northeastern University"),
    ("technology", "Java", "JavaScript"),
    ("technology", "C", "C++"),
    ("technology", "C++", "C#"),
    ("technology", "PostgreSQL 16", "PostgreSQL 17"),
    ("technology", "Python 3.11", "Python 31.1"),
    ("technology", "LangGraph", "LangChain"),
    ("product", "Galaxy S23 Ultra", "Galaxy S24 Ultra"),
    ("product", "Windows Server 2019", "Windows Server 2022"),
    ("concept", "adsorption", "absorption"),
    ("concept", "hypertension", "hypotension"),
    ("name", "Christina Miller", "Christine Miller"),
    ("date", "12 May 1990", "12 May 1991"),
    ("email", "ann.lee@example.com", "annlee@example.com"),
    ("file", "notes_1.txt", "notes 1.txt"),
]
NAMES = st.text(alphabet=st.sampled_from("abcdeéioruüßABC .,-&'’/0123\t東ﬁ\u0301"), max_size=24) | st.sampled_from(
    [name for _, *pair in SAME + DIFFERENT for name in pair]
)
TYPES = st.sampled_from(["organization", "person", "place", "technology", "product", "concept", "name", "url"])


def of(type_: str, one: str, other: str) -> float:
    return score(type_, normal_form(one, type_), normal_form(other, type_))


@pytest.mark.parametrize(("type_", "one", "other"), SAME)
def test_the_same_thing(type_: str, one: str, other: str) -> None:
    assert of(type_, one, other) >= MERGE_AT


@pytest.mark.parametrize(("type_", "one", "other"), DIFFERENT)
def test_two_things(type_: str, one: str, other: str) -> None:
    assert of(type_, one, other) < MERGE_AT


@pytest.mark.parametrize(
    ("type_", "one", "other", "points"),
    [
        ("organization", "abcdefgh", "abcdefgi", 87.5),
        ("organization", "abcdefghi", "abcdefghj", 800 / 9),
        ("organization", "abcdefghij klm", "abcdefghij kln", 87.0),
        ("organization", "abcdefg hijk", "abcdefh hijk", 1100 / 12),
        ("organization", "face book", "facebook", 98.0),
        ("place", "zuerich", "zurich", 96.0),
        ("place", "abcdefghi", "abcdefghj", 87.0),
        ("organization", "", "", 0.0),
    ],
)
def test_points(type_: str, one: str, other: str, points: float) -> None:
    assert score(type_, one, other) == pytest.approx(points)


@given(TYPES, NAMES)
@example("person", ",")
@example("organization", "Inc.")
@example("name", "x" * 1000)
def test_a_form_is_empty_only_for_an_empty_name_and_is_bounded(type_: str, name: str) -> None:
    form = normal_form(name, type_)
    assert bool(form) == bool(clean(name))
    assert len(form) <= MAX_CHARS


@given(TYPES, NAMES, NAMES)
def test_points_are_the_same_both_ways_and_in_range(type_: str, one: str, other: str) -> None:
    assert of(type_, one, other) == of(type_, other, one)
    assert 0 <= of(type_, one, other) <= 100


@st.composite
def near_pairs(draw: st.DrawFn) -> tuple[str, str]:
    """A name and the same with one letter changed, added, left out or swapped, or a space moved."""
    words = draw(st.lists(st.text(alphabet="abcdefgu", min_size=1, max_size=12), min_size=1, max_size=4))
    name = " ".join(words)
    at = draw(st.integers(0, len(name) - 1))
    edits = [name[:at] + name[at + 1 :], name[:at] + "e" + name[at:], name[:at] + "z" + name[at + 1 :]]
    edits += [name[:at] + name[at : at + 2][::-1] + name[at + 2 :], name[:at] + " " + name[at:]]
    return name, " ".join(draw(st.sampled_from(edits)).split())


@given(TYPES, near_pairs())
@example("organization", ("aa abaeb", "aa ab aeb"))
def test_what_scores_as_the_same_shares_a_block(type_: str, pair: tuple[str, str]) -> None:
    one, other = pair
    if score(type_, one, other) >= MERGE_AT:
        assert set(block_keys(one, type_)) & set(block_keys(other, type_))
