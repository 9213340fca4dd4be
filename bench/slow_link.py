"""A TCP proxy that adds latency, for the benchmarks: what a client sends reaches the server, and comes back,
half of it later.

Bandwidth is not limited, and bytes under way do not wait for each other: only time is added, as on a longer
wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def slow_link(host: str, port: int, latency: float) -> Iterator[int]:
    """The local port of a proxy to host:port, in a process of its own, which adds `latency` seconds to a
    round trip.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own = probe.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(
        target=_run, args=(own, host, port, latency), daemon=True
    )
    process.start()
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", own), 1):
                break
            process.join(0.05)
        else:
            raise SystemExit("the proxy does not start")
        yield own
    finally:
        process.terminate()
        process.join()


def _run(own: int, host: str, port: int, latency: float) -> None:
    asyncio.run(_serve(own, host, port, latency / 2))


async def _serve(own: int, host: str, port: int, delay: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(host, port)
            await asyncio.gather(_carry(reader, back, delay), _carry(there, writer, delay))

    server = await asyncio.start_server(connected, "127.0.0.1", own)
    async with server:
        await server.serve_forever()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Hands on what comes, each piece `delay` seconds after it came."""
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue(256)

    async def receive() -> None:
        while True:
            data = await reader.read(1 << 18)
            await pieces.put((loop.time() + delay, data))
            if not data:
                return

    receiving = asyncio.create_task(receive())
    try:
        while True:
            due, data = await pieces.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                break
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        receiving.cancel()
        with contextlib.suppress(OSError):
            writer.close()
