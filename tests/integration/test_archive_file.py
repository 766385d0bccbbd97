"""The file of a backup: a byte that changed is found before anything is touched, and half a file is never left."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import resource
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from checkpointer.errors import ArchiveError
from checkpointer.postgres.archive import verify
from checkpointer.postgres.archive_file import verify_archive
from tests.archives import contents, fill_rows, make, narrow, put_back
from tests.postgres import Cluster, fresh_database
from tests.waiting import until


@pytest.fixture(scope="module")
def whole(admin_dsn: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A backup of a few rows."""
    path = tmp_path_factory.mktemp("archive") / "backup"
    with fresh_database(admin_dsn, template=template) as dsn:
        fill_rows(dsn, blobs=2)
        asyncio.run(make(dsn, path))
    return path.read_bytes()


def starts(data: bytes) -> list[int]:
    """Where the headers of the archive are."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [member.offset for member in archive.getmembers()]


def flipped(data: bytes, position: int, bit: int = 0) -> bytes:
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


def refused(data: bytes) -> bool:
    try:
        verify_archive(io.BytesIO(data))
    except ArchiveError:
        return True
    return False


class TestDamage:
    def test_a_whole_file_is_accepted(self, whole: bytes) -> None:
        assert verify_archive(io.BytesIO(whole)).rows

    def test_one_flipped_bit_is_found_wherever_it_is(self, whole: bytes) -> None:
        """In headers, data, padding, the manifest, its checksum and what follows."""
        headers = starts(whole)
        spread = range(0, len(whole), max(1, len(whole) // 250))
        # Name, mode, time, checksum, kind, padding of a header; first bytes of what it is about; end of what is before.
        places = {start + offset for start in headers for offset in (0, 100, 136, 148, 156, 500, 512, 516)}
        last = {len(whole) - back for back in (1, 600, 1024, 1025, 1500, 2000, 2560)}
        for number, position in enumerate(sorted(places | {start - 1 for start in headers[1:]} | last | set(spread))):
            assert refused(flipped(whole, position, number % 8)), position

    def test_a_file_that_was_cut_off_or_added_to_is_found(self, whole: bytes) -> None:
        for length in (*range(0, len(whole), len(whole) // 100), len(whole) - 1, len(whole) - 1024):
            assert refused(whole[:length]), length
        assert refused(whole + b"\0")

    def test_tables_that_changed_places_are_found(self, whole: bytes) -> None:
        """Each of them is as it was written."""
        first, second, third, *_ = starts(whole)
        assert refused(whole[second:third] + whole[first:second] + whole[third:])

    async def test_nothing_is_touched_then(self, whole: bytes, empty_dsn: str, tmp_path: Path) -> None:
        path = tmp_path / "backup"
        for position in (0, 600, len(whole) // 2, len(whole) - 3000, len(whole) - 1):
            path.write_bytes(flipped(whole, position))
            with pytest.raises(ArchiveError, match="damaged"):
                await put_back(path, empty_dsn)
        with psycopg.connect(empty_dsn) as conn:
            assert conn.execute("SELECT FROM pg_namespace WHERE nspname = 'workflow_checkpoints'").fetchall() == []

    async def test_what_is_not_a_backup_is_called_so(self, tmp_path: Path) -> None:
        path = tmp_path / "backup"
        for data in (b"", b"x" * 5000, bytes(5000)):
            path.write_bytes(data)
            with pytest.raises(ArchiveError, match="it is not a backup"):
                await verify(path)
        with pytest.raises(ArchiveError, match="No such file"):
            await verify(tmp_path / "missing")

    def test_another_format_is_not_guessed_at(self, whole: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
            member = archive.extractfile("manifest.json")
            assert member is not None
            manifest = json.dumps({**json.loads(member.read()), "format": 2}).encode()
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            checksum = f"{hashlib.sha256(manifest).hexdigest()}  manifest.json\n".encode()
            for name, data in (("manifest.json", manifest), ("manifest.json.sha256", checksum)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        with pytest.raises(ArchiveError, match=r"format 2.*holdfast test"):
            verify_archive(out)

    def test_other_tools_read_it(self, whole: bytes, tmp_path: Path) -> None:
        (tmp_path / "backup").write_bytes(whole)
        unpack = "tar xf backup && sha256sum -c manifest.json.sha256 && ls tables"
        done = subprocess.run(["sh", "-c", unpack], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "manifest.json: OK" in done.stdout
        assert "checkpoint_blobs.copy.zst" in done.stdout


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file grows past this size: what a full disk does, for this process alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestWriting:
    async def test_a_disk_that_is_full_leaves_the_file_that_was_there(self, postgres_dsn: str, tmp_path: Path) -> None:
        path = tmp_path / "out" / "backup"
        with pytest.raises(ArchiveError, match="no directory"):
            await make(postgres_dsn, path)
        path.parent.mkdir()
        await make(postgres_dsn, path)
        before = path.read_bytes()
        fill_rows(postgres_dsn, blobs=100)
        with room_for(200_000), pytest.raises(ArchiveError, match="backup can't be written: File too large"):
            await make(postgres_dsn, path)
        assert path.read_bytes() == before
        assert not path.with_name("backup.partial").exists()

    async def test_a_server_that_is_lost_half_way_leaves_the_file_that_was_there(
        self, postgres_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "backup"
        await make(postgres_dsn, path)
        before = path.read_bytes()
        fill_rows(postgres_dsn, blobs=500)
        async with narrow(postgres_dsn, monkeypatch, 3_000_000) as (dsn, proxy):
            under_way = asyncio.create_task(make(dsn, path))
            await until(lambda: written(path) > 1_000_000, what="half of it is written")
            proxy.cut()
            with pytest.raises(ArchiveError, match="the backup of schema"):
                await under_way
        assert path.read_bytes() == before
        assert not path.with_name("backup.partial").exists()

    async def test_a_restore_whose_server_dies_leaves_nothing(
        self, whole: bytes, cluster: Cluster, tmp_path: Path
    ) -> None:
        path = tmp_path / "backup"
        path.write_bytes(whole)
        told: list[str] = []

        def tell(table: str, _: int) -> None:
            """Of a table that is being verified, and then, the second time, of one that is being loaded."""
            told.append(table)
            if told.count("procrastinate_jobs") == 2 and cluster.running:
                cluster.stop("immediate")

        with pytest.raises(ArchiveError, match="the restore into schema"):
            await put_back(path, cluster.dsn(), tell=tell)
        cluster.start()
        assert contents(cluster.dsn()) == {}


def written(path: Path) -> int:
    """How much of it is there by now."""
    partial = path.with_name(f"{path.name}.partial")
    return partial.stat().st_size if partial.exists() else 0
