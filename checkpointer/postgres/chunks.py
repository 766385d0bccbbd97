"""List elements stored once per thread (CHECKPOINT_STORAGE=shared).

LangGraph stores a channel's whole value at every step, so a conversation's bytes grow with the square of its length.
Here a long list is a *root* in its blob row (type `shared`) and its elements are rows of `checkpoint_chunks`, each
once per thread under the 128-bit BLAKE2b hash of its serialised bytes. Every element is serialised and hashed at every
save, so a change in place is seen; only elements that are not there yet are sent.

A root lists hashes. So that a root does not grow with the list, runs of about 64 hashes are chunks of their own,
*nodes*; where a run ends is decided by the hashes in it, so that an insertion changes the run it falls into and no
other:

    root: format byte 1, uint32 number of nodes, hashes of the nodes, hashes of the elements after the last node
    node: hashes of elements

With encryption on, hashes are keyed, per thread: equal content does not show across threads.

Pruning deletes chunks that no root of the thread reaches, maybe from another process, while a saver believes that they
are there. No save may commit a reference to a chunk that is gone:

1. The thread's row in `checkpoint_fences` has a generation. A saver makes sure of the row, in a statement of its own,
   before it first saves a shared list of the thread.
2. The batch statement holds the row shared until it commits. Who deletes chunks takes the row for itself first: that
   waits for savers that are committing, and their references are then seen. It raises the generation and deletes.
3. A save that leaves out chunks because it knows them says under which generation it learned of them. Where the
   row's is another, nothing is written: the saver forgets what it knew and sends the save again, in full.
4. A save that meets a deletion in progress is deferred, like one that meets a takeover (`fence.py`).

What a saver knows (`KnownChunks`) it learned from its own committed saves and from loads, and is bounded. It forgets
everything whenever a connection to the server was lost: a server that comes back may have lost commits that it had
acknowledged (an asynchronous failover, `synchronous_commit=off`), and a save that took those for granted would make it
worse. Behind a pooler, which hides a restart from us, this does not hold: do not let such a server lose commits.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import Struct
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from psycopg.rows import TupleRow

from checkpointer.errors import UnreadableError
from checkpointer.postgres.arrays import TextArray, UuidArray, cell
from checkpointer.serde import Cipher, CompressedSerializer

__all__ = [
    "SHARED",
    "Chunk",
    "ChunkReader",
    "DanglingError",
    "KnownChunks",
    "Sending",
    "SharedList",
    "Splitter",
    "chunk_place",
    "chunk_rows",
    "hashes_of",
    "opened",
    "opened_typed",
    "root_hashes",
]

SHARED = "shared"
_NODE = "node"
_HASH = 16
_ROOT = Struct("!BI")
_FORMAT = 1
_FEWEST_ELEMENTS = 8
_SMALL_ELEMENT = 200  # on average; below that a row of its own takes more than it saves
_RUN_AT_LEAST, _RUN_AT_MOST = 16, 120  # a node stays below 2 KB, which PostgreSQL keeps in the row

Chunk = tuple[bytes, str, bytes]  # hash, type tag, bytes as stored


@dataclass(slots=True)
class Sending:
    """What one save sends of a thread's chunks, and what it takes for granted; `size` is of all its elements."""

    thread_id: str
    generation: int | None
    known: set[bytes]
    era: int = 0
    used: bool = False
    assumes: bool = False
    size: int = 0
    chunks: dict[bytes, Chunk] = field(default_factory=dict)


class KnownChunks:
    """The chunks that this process knows to be there, by thread, with the generation they were seen under."""

    def __init__(self, most: int = 200_000) -> None:
        self.era = 0
        self._most = most
        self._count = 0
        self._threads: OrderedDict[str, tuple[int, set[bytes]]] = OrderedDict()

    def sending(self, thread_id: str) -> Sending:
        """Begin a save."""
        generation, known = self._threads.get(thread_id, (None, set()))
        return Sending(thread_id, generation, known, self.era)

    def learn(self, thread_id: str, generation: int, hashes: Iterable[bytes], era: int) -> None:
        """Add chunks that are there under this generation; those of an earlier one are forgotten.

        `era` is that of the moment at which the question was asked: an answer from before a loss teaches nothing.
        """
        held = self._threads.get(thread_id)
        if era != self.era or (held is not None and held[0] > generation):
            return
        if held is None or held[0] < generation:
            self.forget(thread_id)
            held = self._threads[thread_id] = (generation, set())
        known = held[1]
        before = len(known)
        known.update(hashes)
        self._count += len(known) - before
        self._threads.move_to_end(thread_id)
        while self._count > self._most:
            self.forget(next(iter(self._threads)))

    def forget_all(self) -> None:
        """Know nothing any more, also of what is being asked or saved at this moment."""
        self.era += 1
        self._threads.clear()
        self._count = 0

    def forget(self, thread_id: str) -> None:
        """Know nothing of a thread any more."""
        _, known = self._threads.pop(thread_id, (0, set()))
        self._count -= len(known)


class Splitter:
    """Turns long lists into roots and chunks."""

    def __init__(self, serde: SerializerProtocol, cipher: Cipher | None) -> None:
        self._compressed = serde if isinstance(serde, CompressedSerializer) else None
        self._serde = serde.inner if isinstance(serde, CompressedSerializer) else serde
        self._cipher = cipher

    def split(self, value: object, sending: Sending) -> bytes | None:
        """The root of a list, its missing chunks added to `sending`; None for a value that is stored whole."""
        if type(value) is not list or len(value) < _FEWEST_ELEMENTS or isinstance(value[0], (int, float, type(None))):
            return None
        elements = [self._serde.dumps_typed(element) for element in value]
        size = sum([len(data) for _, data in elements])
        if size < _SMALL_ELEMENT * len(elements):
            return None
        sending.size += size
        key = self._cipher.hash_key(sending.thread_id) if self._cipher is not None else b""
        nodes, run = [], []
        for kind, data in elements:
            digest = _digest(key, kind, data)
            self._add(sending, digest, kind, data)
            run.append(digest)
            if (len(run) >= _RUN_AT_LEAST and not digest[-1] & 63) or len(run) == _RUN_AT_MOST:
                joined = b"".join(run)
                node = _digest(key, _NODE, joined)
                self._add(sending, node, _NODE, joined)
                nodes.append(node)
                run = []
        sending.used = True
        return _ROOT.pack(_FORMAT, len(nodes)) + b"".join(nodes) + b"".join(run)

    def _add(self, sending: Sending, digest: bytes, kind: str, data: bytes) -> None:
        if digest in sending.known:
            sending.assumes = True
        elif digest not in sending.chunks:
            if self._compressed is not None and kind != _NODE:
                kind, data = self._compressed.pack(kind, data)
            if self._cipher is not None:
                kind, data = self._cipher.seal(kind, data, chunk_place(sending.thread_id, digest))
            sending.chunks[digest] = (digest, kind, data)


@dataclass(frozen=True, slots=True)
class SharedList:
    """The elements of a shared list as they are stored, in order. Its length is their bytes."""

    elements: Sequence[Chunk]

    def __len__(self) -> int:
        return sum([len(data) for _, _, data in self.elements])


class DanglingError(Exception):
    """A chunk was not there: the thread was pruned between two statements of a load. Loading again settles it."""


Run = Callable[[str, Mapping[str, Any]], Awaitable[Sequence[TupleRow]]]
_Keys = dict[tuple[str, bytes], None]


class ChunkReader:
    """Fetches the elements of shared lists: of however many lists, in two statements (`load_chunks`)."""

    def __init__(self, statement: str, cipher: Cipher | None, known: KnownChunks | None = None) -> None:
        self._statement = statement
        self._cipher = cipher
        self._known = known

    async def attach(self, run: Run, groups: Sequence[list[TupleRow]]) -> None:
        """In each checkpoint's rows (`checkpoint_rows`), put a `SharedList` in the place of every root.

        Raises `DanglingError` or `UnreadableError`.
        """
        places, roots = [], []
        for group in groups:
            shared = [at for at, row in enumerate(group) if row[1] == 1 and row[3].partition("+")[0] == SHARED]
            for at in shared:
                head = next(row for row in group if row[1] == 0)
                row = group[at]
                root = opened(self._cipher, row[3], row[9], ("blob", head[2], head[3], row[2], row[4]))
                places.append((group, at))
                roots.append((head[2], root))
        lists = await self.lists(run, roots) if roots else []
        for (group, at), elements in zip(places, lists, strict=True):
            group[at] = (*group[at][:3], SHARED, *group[at][4:9], elements)

    async def lists(self, run: Run, roots: Sequence[tuple[str, bytes]]) -> list[SharedList]:
        """The elements of these roots (thread and root). Raises `DanglingError` or `UnreadableError`."""
        split = [(thread, *root_hashes(root)) for thread, root in roots]
        nodes = await self._chunks(run, {(thread, digest): None for thread, heads, _ in split for digest in heads})
        listed = [
            (
                thread,
                [digest for head in heads for digest in hashes_of(nodes[thread, head][2])] + tail,
            )
            for thread, heads, tail in split
        ]
        wanted: _Keys = {(thread, digest): None for thread, hashes in listed for digest in hashes}
        chunks = await self._chunks(run, wanted)
        return [SharedList([chunks[thread, digest] for digest in hashes]) for thread, hashes in listed]

    async def _chunks(self, run: Run, wanted: _Keys) -> dict[tuple[str, bytes], Chunk]:
        if not wanted:
            return {}
        threads = list(dict.fromkeys(thread for thread, _ in wanted))
        params = {
            "threads": TextArray([cell(thread.encode()) for thread, _ in wanted]),
            "hashes": UuidArray([cell(digest) for _, digest in wanted]),
            "fences": TextArray([cell(thread.encode()) for thread in threads]),
        }
        keys = list(wanted)
        era = self._known.era if self._known is not None else 0
        found: dict[tuple[str, bytes], Chunk] = {}
        generations: dict[str, int] = {}
        for number, kind, data, generation in await run(self._statement, params):
            if number < 0:
                generations[threads[-number - 1]] = generation
            else:
                thread, digest = keys[number - 1]
                plain = (
                    opened(self._cipher, kind, data, chunk_place(thread, digest)) if kind.startswith(_NODE) else data
                )
                found[thread, digest] = (digest, kind, plain)
        if len(found) < len(wanted):
            raise DanglingError(f"{len(wanted) - len(found)} elements of shared lists are not there")
        if self._known is None:
            return found
        seen: dict[str, list[bytes]] = defaultdict(list)
        for thread, digest in wanted:
            seen[thread].append(digest)
        for thread, generation in generations.items():
            self._known.learn(thread, generation, seen[thread], era)
        return found


def opened_typed(cipher: Cipher | None, kind: str, data: bytes, place: Sequence[str]) -> tuple[str, bytes]:
    """A stored value without its encryption, if it has one. Raises `UnreadableError`."""
    if not Cipher.is_sealed(kind):
        return kind, data
    if cipher is None:
        raise UnreadableError("a stored value is encrypted, but CHECKPOINT_ENCRYPTION_KEYS is not set")
    return cipher.open(kind, data, place)


def opened(cipher: Cipher | None, kind: str, data: bytes, place: Sequence[str]) -> bytes:
    """The bytes of `opened_typed`."""
    return opened_typed(cipher, kind, data, place)[1]


def _digest(key: bytes, kind: str, data: bytes) -> bytes:
    state = blake2b(kind.encode() + b"\0", digest_size=_HASH, key=key)
    state.update(data)
    return state.digest()


def chunk_rows(sending: Sending) -> list[tuple[bytes, bytes, bytes, bytes]]:
    """The missing chunks as rows of cells."""
    thread = cell(sending.thread_id.encode())
    return [(thread, cell(digest), cell(kind.encode()), cell(data)) for digest, kind, data in sending.chunks.values()]


def chunk_place(thread_id: str, digest: bytes) -> tuple[str, ...]:
    """The identity that an encrypted chunk is bound to."""
    return ("chunk", thread_id, digest.hex())


def root_hashes(root: bytes) -> tuple[list[bytes], list[bytes]]:
    """The hashes of a root's nodes, and of the elements after them. Raises `UnreadableError`."""
    try:
        version, count = _ROOT.unpack_from(root)
    except Exception as exc:
        raise UnreadableError("the root of a shared list is damaged") from exc
    hashes = hashes_of(root[_ROOT.size :])
    if version != _FORMAT:
        raise UnreadableError(f"the root of a shared list has an unknown format ({version})")
    if count > len(hashes) or (hashes and len(hashes[-1]) < _HASH):
        raise UnreadableError("the root of a shared list is damaged")
    return hashes[:count], hashes[count:]


def hashes_of(joined: bytes) -> list[bytes]:
    """The hashes in a node, or in the rest of a root."""
    return [joined[at : at + _HASH] for at in range(0, len(joined), _HASH)]
