"""Load for a server, from a process of its own: what is done meanwhile does not slow the clients down."""

import asyncio
import itertools
import multiprocessing
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

import uvloop

Address = tuple[str, int]
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]

PATIENCE = 30.0  # seconds for an answer
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Answer(NamedTuple):
    """What came back on a connection for `asked`, the number of a request; times as `time.time` tells them.

    `status` is 0 where the connection failed, and `body` then says how.
    """

    connection: int
    asked: int
    sent: float
    received: float
    status: int
    body: bytes


@contextmanager
def load(
    address: Address, requests: Sequence[bytes], connections: int, pause: float = 0.0
) -> Iterator[list[Answer]]:
    """Ask for the length of a `with` block; the list that it gives holds all answers when the block ends.

    Each connection stays open and sends one of `requests` after the other, as soon as the one before is
    answered and `pause` seconds have passed.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, address, requests, connections, pause))
    process.start()
    theirs.close()  # so that its end is an end here, too
    answers: list[Answer] = []
    try:
        ours.recv()  # it has begun
        yield answers
        ours.send("enough")
        answers += ours.recv()
        process.join()
    finally:
        process.kill()


def _work(
    pipe: Connection, address: Address, requests: Sequence[bytes], connections: int, pause: float
) -> None:
    uvloop.run(_ask_until_told(pipe, address, requests, connections, pause))


async def _ask_until_told(
    pipe: Connection, address: Address, requests: Sequence[bytes], connections: int, pause: float
) -> None:
    enough = asyncio.Event()
    clients = [
        asyncio.create_task(_client(number, address, requests, pause, enough))
        for number in range(connections)
    ]
    pipe.send("begun")
    await asyncio.to_thread(pipe.recv)
    enough.set()
    pipe.send(list(itertools.chain(*await asyncio.gather(*clients))))


async def _client(
    number: int, address: Address, requests: Sequence[bytes], pause: float, enough: asyncio.Event
) -> list[Answer]:
    """Everything that one connection was answered; one that fails is told, and opened again."""
    answers, wire = [], None
    await asyncio.sleep(0.005 * number)  # of workers the first to wake would take all that come at once
    for turn in itertools.count(number):
        if enough.is_set():
            break
        asked, sent = turn % len(requests), time.time()
        try:
            async with asyncio.timeout(PATIENCE):
                wire = wire or await asyncio.open_connection(*address)
                status, body = await _exchange(wire, requests[asked])
        except (OSError, EOFError, ValueError) as error:
            status, body, wire = 0, repr(error).encode(), None
        answers.append(Answer(number, asked, sent, time.time(), status, body))
        await asyncio.sleep(pause if status else max(pause, 0.01))
    return answers


async def _exchange(wire: Wire, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer."""
    reader, writer = wire
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if not length:
        raise ValueError(f"an answer without its length: {head!r}")
    return int(head.split(b" ", 2)[1]), await reader.readexactly(int(length[1]))
