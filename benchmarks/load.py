"""Load generator in a separate process, so that the caller does not slow the clients down."""

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
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

RESPONSE_TIMEOUT_SECONDS = 30.0  # seconds for an answer
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Response(NamedTuple):
    """Response on a connection to request number `asked`; times are from `time.time`.

    `status` is 0 if the connection failed; `body` is then the error.
    """

    connection: int
    request_index: int
    sent_at: float
    received_at: float
    status: int
    body: bytes


@contextmanager
def generate_load(
    address: Address, requests: Sequence[bytes], connections: int, pause: float = 0.0
) -> Iterator[list[Response]]:
    """Send requests during a `with` block; the yielded list has all answers when the block ends.

    Each connection stays open and sends the next of `requests` as soon as the previous one is answered and
    `pause` seconds have passed.
    """
    context = multiprocessing.get_context("spawn")
    pipe, child_pipe = context.Pipe()
    process = context.Process(target=_run_process, args=(child_pipe, address, requests, connections, pause))
    process.start()
    child_pipe.close()  # otherwise the end of the child process would go unnoticed
    responses: list[Response] = []
    try:
        pipe.recv()  # wait for the start
        yield responses
        pipe.send("stop")
        responses += pipe.recv()
        process.join()
    finally:
        process.kill()


def _run_process(
    pipe: Connection, address: Address, requests: Sequence[bytes], connections: int, pause: float
) -> None:
    uvloop.run(_run_clients(pipe, address, requests, connections, pause))


async def _run_clients(
    pipe: Connection, address: Address, requests: Sequence[bytes], connections: int, pause: float
) -> None:
    stop = asyncio.Event()
    clients = [
        asyncio.create_task(_client(number, address, requests, pause, stop)) for number in range(connections)
    ]
    pipe.send("started")
    await asyncio.to_thread(pipe.recv)
    stop.set()
    pipe.send(list(itertools.chain(*await asyncio.gather(*clients))))


async def _client(
    number: int, address: Address, requests: Sequence[bytes], pause: float, stop: asyncio.Event
) -> list[Response]:
    """Return all answers on one connection. A failure is an answer too, and the connection is reopened."""
    responses, streams = [], None
    await asyncio.sleep(0.005 * number)  # of connections that open at once, one worker would take all
    for turn in itertools.count(number):
        if stop.is_set():
            break
        request_index, sent_at = turn % len(requests), time.time()
        try:
            async with asyncio.timeout(RESPONSE_TIMEOUT_SECONDS):
                streams = streams or await asyncio.open_connection(*address)
                status, body = await _exchange(streams, requests[request_index])
        except (OSError, EOFError, ValueError) as error:
            status, body, streams = 0, repr(error).encode(), None
        responses.append(Response(number, request_index, sent_at, time.time(), status, body))
        await asyncio.sleep(pause if status else max(pause, 0.01))
    return responses


async def _exchange(streams: Streams, request: bytes) -> tuple[int, bytes]:
    """Send a request, and return status and body of the answer."""
    reader, writer = streams
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if not length:
        raise ValueError(f"answer without Content-Length: {head!r}")
    return int(head.split(b" ", 2)[1]), await reader.readexactly(int(length[1]))
