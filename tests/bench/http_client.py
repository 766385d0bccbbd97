"""The HTTP bench's client, in a process of its own: plain sockets that are kept alive, and nothing else.

`python -m tests.bench.http_client` reads a `Job` as JSON from its input and prints what it `Saw` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from time import perf_counter, process_time

__all__ = ["Job", "Saw", "ask"]


@dataclass(frozen=True)
class Job:
    """`requests` of one kind, over `connections` at once; each answer is 200 and has `expected` in it."""

    port: int
    method: str
    path: str
    body: str
    expected: str
    connections: int
    requests: int


@dataclass(frozen=True)
class Saw:
    """Seconds from the first request to the last answer, of each of them, and what of it this process was busy."""

    seconds: float
    busy: float
    each: list[float]


def ask(job: Job) -> Saw:
    """Have a process do the job. Raises `CalledProcessError`, with what went wrong on the bench's stderr."""
    command = [sys.executable, "-m", "tests.bench.http_client"]
    given = json.dumps(asdict(job))
    printed = subprocess.run(command, input=given, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Saw(**json.loads(printed))


async def _work(job: Job) -> Saw:
    streams = [await asyncio.open_connection("127.0.0.1", job.port) for _ in range(job.connections)]
    left = iter(range(job.requests))
    each: list[float] = []
    begun, busy = perf_counter(), process_time()
    await asyncio.gather(*(_connection(job, *stream, left, each) for stream in streams))
    saw = Saw(perf_counter() - begun, process_time() - busy, each)
    for _, writer in streams:
        writer.close()
    return saw


async def _connection(
    job: Job, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: Iterator[int], each: list[float]
) -> None:
    head = f"{job.method} {job.path} HTTP/1.1\r\nHost: 127.0.0.1:{job.port}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(job.body.encode())}\r\n\r\n{job.body}".encode()
    for _ in left:
        begun = perf_counter()
        writer.write(request)
        status, answer = await _answer(reader)
        each.append(perf_counter() - begun)
        if status != 200 or job.expected.encode() not in answer:
            raise AssertionError(f"{job.path} answered {status}: {answer.decode()[:500]}")


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and the body of one answer, whose length is announced."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    return int(lines[0].split()[1]), await reader.readexactly(int(fields["content-length"]))


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(_work(Job(**json.loads(sys.stdin.read())))))))
