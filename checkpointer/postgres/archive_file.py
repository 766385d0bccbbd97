"""The file of a backup: written once from front to end, and read only when every byte of it is accounted for.

It is an ordinary tar archive, so that its tables can be had without this software too:

    tables/NAME.copy.zst    the rows of a table as PostgreSQL's binary COPY writes them, in one zstd frame
    …
    manifest.json           `Manifest`: what the tables are, and the SHA-256 of each file above
    manifest.json.sha256    the SHA-256 of the manifest, as `sha256sum` writes it

A reader believes nothing that it has not derived: the manifest is what its checksum says, and names, sizes and time
in it give every header of the archive, to be compared byte by byte. What is left is the tables' files, which have
their SHA-256, and padding, which is zeros. So no byte can change unseen.

A file is complete or it is not there: it is written as NAME.partial, synced, and renamed. A process that is killed
leaves a NAME.partial, which the next backup to the same name replaces.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TypeAlias, cast

import zstandard
from pydantic import BaseModel, ConfigDict, ValidationError

from checkpointer.errors import ArchiveError

__all__ = [
    "FORMAT",
    "ArchiveWriter",
    "Column",
    "Manifest",
    "SequenceState",
    "Table",
    "TableWriter",
    "Tell",
    "opened",
    "table_blocks",
    "verify_archive",
    "writing",
]

# Is told a table's name and how many bytes of its rows have passed.
Tell: TypeAlias = Callable[[str, int], None]

FORMAT = 1
_MANIFEST = "manifest.json"
_TAR_BLOCK = 512
_TAR_END = bytes(2 * _TAR_BLOCK)
_READ_BYTES = 1 << 20
_LEVEL = 3
_COPY_BEGINS = b"PGCOPY\n\xff\r\n\x00"
_COPY_ENDS = b"\xff\xff"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Part):
    """A column, and its type without length; a type of the schema's own is named without the schema."""

    name: str
    type: str


class Table(_Part):
    """A table: `bytes` are those of its rows, `stored` those of its file, whose SHA-256 follows."""

    name: str
    columns: tuple[Column, ...]
    rows: int
    bytes: int
    stored: int
    sha256: str

    @property
    def file(self) -> str:
        """What it is called in the archive."""
        return f"tables/{self.name}.copy.zst"


class SequenceState(_Part):
    """Where a sequence stands, as `setval` takes it."""

    name: str
    last: int
    called: bool


class Manifest(_Part):
    """What a backup holds. `migrations` is the highest number that was applied of each set, LangGraph's included."""

    format: int
    made_by: str
    created_at: datetime
    server: str
    schema_name: str
    migrations: dict[str, int]
    tables: tuple[Table, ...]
    sequences: tuple[SequenceState, ...]

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(table.rows for table in self.tables)


class TableWriter:
    """One table's file: `write` as often as needed, then `end`."""

    def __init__(self, file: IO[bytes], name: str, columns: Sequence[Column]) -> None:
        self._file = file
        self._name = name
        self._columns = tuple(columns)
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
        self._sha256 = hashlib.sha256()
        self._bytes = self._stored = 0
        self._start = file.tell()
        file.write(bytes(_TAR_BLOCK))  # the header, once the size is known

    def write(self, block: bytes) -> None:
        """Add rows, cut anywhere."""
        self._bytes += len(block)
        self._store(self._compressor.compress(block))

    def end(self, rows: int, created_at: datetime) -> Table:
        """Put the header in its place."""
        self._store(self._compressor.flush())
        table = Table(
            name=self._name,
            columns=self._columns,
            rows=rows,
            bytes=self._bytes,
            stored=self._stored,
            sha256=self._sha256.hexdigest(),
        )
        self._file.write(_padding(self._stored))
        self._file.seek(self._start)
        self._file.write(_header(table.file, table.stored, created_at))
        self._file.seek(0, os.SEEK_END)
        return table

    def _store(self, data: bytes) -> None:
        self._sha256.update(data)
        self._stored += len(data)
        self._file.write(data)


@dataclass
class ArchiveWriter:
    """Writes tables one after the other, each to its end, and then the manifest."""

    file: IO[bytes]
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def table(self, name: str, columns: Sequence[Column]) -> TableWriter:
        """Begin a table."""
        return TableWriter(self.file, name, columns)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest of what was written."""
        self.file.write(_ending(manifest.model_dump_json(indent=1).encode(), self.created_at))


@contextmanager
def writing(path: Path) -> Iterator[ArchiveWriter]:
    """A file that is there, whole and on disk, when the block ends well, and is as it was before when it does not.

    Only its owner may read it. Raises `ArchiveError` where it can't be written.
    """
    if not path.parent.is_dir():
        raise ArchiveError(f"{path} can't be written: there is no directory {path.parent}")
    if path.is_dir():
        raise ArchiveError(f"{path} can't be written: it is a directory; name a file in it")
    partial = path.with_name(f"{path.name}.partial")
    try:
        with _taken(partial) as file:
            try:
                yield ArchiveWriter(file)
                file.flush()
                os.fsync(file.fileno())
                partial.replace(path)
            except BaseException:
                # While the lock is held: afterwards it may be another's.
                partial.unlink(missing_ok=True)
                raise
        _sync_directory(path.parent)
    except OSError as exc:
        raise ArchiveError(f"{path} can't be written: {exc.strerror or exc}") from exc


@contextmanager
def _taken(partial: Path) -> Iterator[IO[bytes]]:
    """The file, empty, for this process alone. The lock ends with the process, however that ends."""
    while True:
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArchiveError(f"{partial} is being written by another backup; wait for it to end") from None
            # Its owner may have renamed it before we had the lock: then it is a backup, and to be left alone.
            if not _is_at(file, partial):
                continue
            os.fchmod(file.fileno(), 0o600)
            file.truncate(0)
            yield file
            return


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, to be read. Raises `ArchiveError` where it can't be."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as exc:
        raise ArchiveError(f"{path} can't be read: {exc.strerror or exc}") from exc


def verify_archive(file: IO[bytes], tell: Tell | None = None) -> Manifest:
    """Read all of it and give its manifest. Raises `ArchiveError` where a single byte is not as it was written."""
    manifest, raw = _read_manifest(file)
    file.seek(0)
    for table in manifest.tables:
        for _ in table_blocks(file, manifest, table, tell):
            pass
    ending = _ending(raw, manifest.created_at)
    if file.read(len(ending) + 1) != ending:
        raise _damaged(file, "its end is not that of a backup")
    return manifest


def table_blocks(file: IO[bytes], manifest: Manifest, table: Table, tell: Tell | None = None) -> Iterator[bytes]:
    """The rows of a table, in blocks; leaves the file where the next table begins.

    Raises `ArchiveError` where they are not what was written, at the latest at the end: use nothing before that.
    """
    file.seek(_start_of(manifest, table))
    if file.read(_TAR_BLOCK) != _header(table.file, table.stored, manifest.created_at):
        raise _damaged(file, f"the header of {table.file} is not the one that was written")
    stored = _Stored(file, table.stored)
    passed, first, last = 0, b"", b""
    try:
        for block in _decompressed(stored):
            passed += len(block)
            first = first or block[: len(_COPY_BEGINS)]
            last = (last + block[-2:])[-2:]
            yield block
            if tell is not None:
                tell(table.name, passed)
    except zstandard.ZstdError as exc:
        raise _damaged(file, f"{table.file} can't be unpacked") from exc
    stored.drain()
    padding = _padding(table.stored)
    whole = stored.sha256.hexdigest() == table.sha256 and passed == table.bytes
    if not whole or first != _COPY_BEGINS or last != _COPY_ENDS or file.read(len(padding)) != padding:
        raise _damaged(file, f"{table.file} is not what was written (SHA-256)")


class _Stored(io.RawIOBase):
    """Some bytes of a file, hashed as they are read."""

    def __init__(self, file: IO[bytes], left: int) -> None:
        super().__init__()
        self.sha256 = hashlib.sha256()
        self._file = file
        self._left = left

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        self._left -= len(data)
        self.sha256.update(data)
        return data

    def drain(self) -> None:
        """Read what is left."""
        while self.read(_READ_BYTES):
            pass


def _decompressed(stored: _Stored) -> Iterator[bytes]:
    with zstandard.ZstdDecompressor().stream_reader(cast("IO[bytes]", stored), read_size=_READ_BYTES) as reader:
        while block := reader.read(_READ_BYTES):
            yield block


def _read_manifest(file: IO[bytes]) -> tuple[Manifest, bytes]:
    """The manifest, believed for its checksum and nothing else yet."""
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            raw, checksum = (_member(archive, name) for name in (_MANIFEST, f"{_MANIFEST}.sha256"))
    except (tarfile.TarError, KeyError, ValueError, OverflowError) as exc:
        raise _damaged(file, "it is not a backup, or it was cut off or changed") from exc
    if checksum != _checksum_line(raw):
        raise _damaged(file, f"{_MANIFEST} is not what was written (SHA-256)")
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as exc:
        raise ArchiveError(f"{_name(file)} has a manifest that this Holdfast can't read; use a newer Holdfast") from exc
    if manifest.format != FORMAT:
        raise ArchiveError(f"{_name(file)} is of format {manifest.format}, not {FORMAT}; use {manifest.made_by}")
    return manifest, raw


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    found = archive.extractfile(name)
    if found is None:
        raise KeyError(name)
    return found.read()


def _start_of(manifest: Manifest, wanted: Table) -> int:
    before = manifest.tables[: manifest.tables.index(wanted)]
    return sum(_TAR_BLOCK + table.stored + len(_padding(table.stored)) for table in before)


def _header(name: str, size: int, at: datetime) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(at.timestamp()), 0o600
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _TAR_BLOCK)


def _ending(manifest: bytes, at: datetime) -> bytes:
    parts = ((_MANIFEST, manifest), (f"{_MANIFEST}.sha256", _checksum_line(manifest)))
    return b"".join(_header(name, len(data), at) + data + _padding(len(data)) for name, data in parts) + _TAR_END


def _checksum_line(manifest: bytes) -> bytes:
    return f"{hashlib.sha256(manifest).hexdigest()}  {_MANIFEST}\n".encode()


def _damaged(file: IO[bytes], why: str) -> ArchiveError:
    return ArchiveError(f"{_name(file)} is damaged: {why}; use another backup")


def _name(file: IO[bytes]) -> str:
    return str(getattr(file, "name", "the file"))


def _sync_directory(directory: Path) -> None:
    """Without this the new name may be lost with the power, although the data is there."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
