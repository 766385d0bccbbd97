"""Roots, nodes and elements; what a process knows of them; and lists put together again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage

from checkpointer.errors import UnreadableError
from checkpointer.postgres.chunks import KnownChunks, Sending, Splitter, hashes_of, root_hashes
from checkpointer.serde import AllowListSerializer, Cipher, CompressedSerializer, join_list

SERDE = AllowListSerializer()


def sending(known: set[bytes] | None = None, thread: str = "t") -> Sending:
    return Sending(thread, None if known is None else 1, known or set())


def split(items: Sequence[Any], known: set[bytes] | None = None, **options: Any) -> tuple[bytes, Sending]:
    """The root of a list and what is sent with it."""
    sends = sending(known)
    root = Splitter(options.get("serde", SERDE), options.get("cipher")).split(list(items), sends)
    assert root is not None
    return root, sends


def texts(length: int, begin: int = 0) -> list[str]:
    return [f"{number} " + "x" * 300 for number in range(begin, begin + length)]


class TestSplitting:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            "x" * 9000,
            tuple(texts(20)),
            {"a": texts(20)},
            [],
            texts(7),
            ["tiny"] * 5000,
            [1] * 5000,
            [0.5] * 5000,
            [None] * 5000,
            [True] * 5000,
            type("Own", (list,), {})(texts(20)),
        ],
        ids=lambda value: f"{type(value).__name__} {len(value or '')}",
    )
    def test_what_stays_whole(self, value: Any) -> None:
        sends = sending()
        assert Splitter(SERDE, None).split(value, sends) is None
        assert not sends.used
        assert sends.chunks == {}

    def test_bounds(self) -> None:
        """From eight elements of 200 bytes on average."""
        assert Splitter(SERDE, None).split(["x" * 300] * 7, sending()) is None
        assert Splitter(SERDE, None).split(["x" * 300] * 8, sending()) is not None
        assert Splitter(SERDE, None).split(["x" * 190] * 20, sending()) is None
        assert Splitter(SERDE, None).split(["x" * 1800, *["x"] * 7], sending()) is not None

    @pytest.mark.parametrize("length", [8, 15, 16, 17, 64, 120, 121, 1000, 5000])
    def test_a_root_leads_to_every_element_in_order(self, length: int) -> None:
        items = texts(length)
        root, sends = split(items)
        assert sends.used
        assert not sends.assumes
        heads, tail = root_hashes(root)
        runs = [hashes_of(sends.chunks[head][2]) for head in heads]
        assert all(16 <= len(run) <= 120 for run in runs)
        assert len(tail) < 120
        hashes = [digest for run in runs for digest in run] + tail
        assert [SERDE.loads_typed(sends.chunks[digest][1:]) for digest in hashes] == items
        assert len(sends.chunks) == len(set(hashes)) + len(set(heads))
        assert sends.size == sum(len(SERDE.dumps_typed(item)[1]) for item in items)

    def test_the_same_element_is_sent_once(self) -> None:
        root, sends = split(["x" * 300] * 1000)
        heads, tail = root_hashes(root)
        assert len(sends.chunks) == 1 + 1  # and one node, of 120 times the same
        assert len(heads) == 1000 // 120
        assert len(set(tail)) == 1

    def test_equal_bytes_of_another_kind_are_another_element(self) -> None:
        items: list[Any] = ["x" * 300] * 8
        packed = SERDE.dumps_typed(items[0])[1]
        _, sends = split([*items, packed])
        assert len(sends.chunks) == 2

    def test_what_is_known_is_not_sent(self) -> None:
        _, first = split(texts(200))
        root, second = split(texts(200), set(first.chunks))
        assert second.chunks == {}
        assert second.assumes
        assert second.used
        _, third = split(texts(200, 200), set(first.chunks))
        assert not third.assumes
        assert root == split(texts(200))[0]

    @pytest.mark.parametrize("seed", range(5))
    def test_a_change_in_the_middle_changes_few_nodes(self, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - the same every time
        items = [rng.randbytes(150).hex() for _ in range(3000)]
        heads, _ = root_hashes(split(items)[0])
        assert 3000 / 120 <= len(heads) <= 3000 / 16
        for change in ("insert", "delete", "replace"):
            changed = list(items)
            place = rng.randrange(len(items))
            if change == "insert":
                changed.insert(place, "new" * 100)
            elif change == "delete":
                del changed[place]
            else:
                changed[place] = "new" * 100
            root, sends = split(changed, set(split(items)[1].chunks))
            # A run that ends elsewhere now puts its neighbours out of step until one ends where it did before.
            assert len(set(root_hashes(root)[0]) - set(heads)) <= 8
            assert len(sends.chunks) <= 9

    def test_appending_changes_the_tail_only(self) -> None:
        items = texts(1000)
        known = set(split(items)[1].chunks)
        for length in range(1001, 1100):
            _, sends = split(texts(length), known)
            assert len(sends.chunks) <= 2
            known |= set(sends.chunks)

    def test_elements_are_compressed_and_nodes_are_not(self) -> None:
        _, sends = split(["x" * 5000, *texts(400)], serde=CompressedSerializer())
        assert {kind for _, kind, _ in sends.chunks.values()} == {"msgpack", "msgpack.zstd", "node"}
        _, plain = split(["x" * 5000, *texts(400)])
        assert set(plain.chunks) == set(sends.chunks)  # so the hash does not depend on it

    def test_hashes_are_keyed_by_thread_and_key(self) -> None:
        def hashes(thread: str, key: bytes | None) -> set[bytes]:
            sends = sending(thread=thread)
            cipher = Cipher([("k", key)]) if key else None
            assert Splitter(SERDE, cipher).split(texts(200), sends) is not None
            return set(sends.chunks)

        one, two = bytes(32), bytes(range(32))
        found = [hashes("a", None), hashes("a", one), hashes("b", one), hashes("a", two), hashes("b", two)]
        assert hashes("b", None) == found[0]
        assert hashes("a", one) == found[1]
        assert sum(map(len, found)) == len(set().union(*found))

    @pytest.mark.parametrize(
        "root", [b"", b"\1", b"\2\0\0\0\0", b"\1\0\0\0\2" + b"x" * 16, b"\1\0\0\0\0" + b"x" * 17], ids=repr
    )
    def test_a_damaged_root_is_said_to_be(self, root: bytes) -> None:
        with pytest.raises(UnreadableError):
            root_hashes(root)


class TestKnownChunks:
    def test_nothing_at_first(self) -> None:
        sends = KnownChunks().sending("t")
        assert (sends.generation, sends.known) == (None, set())

    def test_what_was_learned_under_one_generation(self) -> None:
        known = KnownChunks()
        known.learn("t", 3, [b"a"], known.era)
        known.learn("t", 3, [b"b"], known.era)
        known.learn("other", 0, [b"c"], known.era)
        sends = known.sending("t")
        assert (sends.generation, sends.known) == (3, {b"a", b"b"})

    def test_a_later_generation_replaces_and_an_earlier_one_is_ignored(self) -> None:
        known = KnownChunks()
        known.learn("t", 3, [b"a"], known.era)
        begun = known.sending("t")
        known.learn("t", 4, [b"b"], known.era)
        known.learn("t", 3, [b"c"], known.era)
        sends = known.sending("t")
        assert (sends.generation, sends.known) == (4, {b"b"})
        assert (begun.generation, begun.known) == (3, {b"a"})  # a save under way is judged by what it began with

    def test_forgetting(self) -> None:
        known = KnownChunks()
        known.learn("t", 3, [b"a"], known.era)
        known.forget("t")
        known.forget("never known")
        assert known.sending("t").generation is None
        known.learn("t", 1, [b"b"], known.era)
        assert known.sending("t").known == {b"b"}

    def test_bounded_by_the_threads_longest_unused(self) -> None:
        known = KnownChunks(most=10)
        for thread in "abc":
            known.learn(thread, 0, [f"{thread}{number}".encode() for number in range(3)], known.era)
        known.learn("a", 0, [b"a3"], known.era)
        known.learn("d", 0, [b"d"], known.era)
        assert known.sending("b").generation is None
        assert [len(known.sending(thread).known) for thread in "acd"] == [4, 3, 1]
        known.learn("a", 0, [b"a0", b"a1"], known.era)  # nothing new takes no room
        assert [len(known.sending(thread).known) for thread in "acd"] == [4, 3, 1]
        known.learn("e", 0, [f"e{number}".encode() for number in range(10)], known.era)
        assert [known.sending(thread).generation for thread in "abcde"] == [None, None, None, None, 0]

    def test_a_single_thread_past_the_bound_is_forgotten_too(self) -> None:
        known = KnownChunks(most=10)
        known.learn("t", 0, [bytes([number]) for number in range(30)], known.era)
        assert known.sending("t").known == set()

    def test_an_answer_from_before_a_loss_teaches_nothing(self) -> None:
        known = KnownChunks()
        before = known.era
        known.forget_all()
        known.learn("t", 0, [b"a"], before)
        assert known.sending("t").known == set()
        known.learn("t", 0, [b"a"], known.era)
        assert known.sending("t").known == {b"a"}


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


class TestJoining:
    @given(
        st.lists(plain | plain.map(lambda inner: AIMessage(content="x", additional_kwargs={"a": inner})), max_size=40)
    )
    def test_is_what_serializing_the_whole_list_gives(self, items: list[Any]) -> None:
        kind, data = join_list([SERDE.dumps_typed(item) for item in items])
        assert repr(SERDE.loads_typed((kind, data))) == repr(SERDE.loads_typed(SERDE.dumps_typed(items)))

    @pytest.mark.parametrize("length", [0, 1, 15, 16, 65535, 65536, 100_000])
    def test_any_length(self, length: int) -> None:
        items = list(range(length))
        assert SERDE.loads_typed(join_list([SERDE.dumps_typed(item) for item in items])) == items

    @pytest.mark.parametrize("size", [0, 255, 256, 65536, 1_000_000])
    def test_bytes_of_any_length(self, size: int) -> None:
        items = [b"x" * size, bytearray(b"y" * size)]
        assert SERDE.loads_typed(join_list([SERDE.dumps_typed(item) for item in items])) == items

    def test_of_another_serializer_are_refused(self) -> None:
        with pytest.raises(UnreadableError, match="'pickle'"):
            join_list([("msgpack", b"\1"), ("pickle", b"x")])
