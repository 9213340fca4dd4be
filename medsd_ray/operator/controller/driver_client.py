"""The head pod's driver, asked over HTTP how the run is doing. That it does not answer is a fact, not an
error.
"""

from __future__ import annotations

from typing import Any

import aiohttp

from medsd_ray.documents import parse_json
from medsd_ray.driver.protocol import DRIVER_PORT, DriverAnswer

TIMEOUT_S = 3.0


LONGEST_ANSWER = 1 << 20


def read_answer(text: bytes) -> DriverAnswer | None:
    """None where it is not a driver's answer: another server may have the address by now."""
    try:
        return DriverAnswer.model_validate(parse_json(text))
    except ValueError:
        return None


async def poll(
    session: aiohttp.ClientSession,
    host: str,
    events: list[dict[str, Any]],
    stop: bool,
    token: str | None = None,
) -> DriverAnswer | None:
    """`host`: the head pod's address. `stop` asks for a checkpoint and an end; `token` is the attempt's. None
    where nothing answers, or not a driver that knows the token.
    """
    address = f"[{host}]" if ":" in host else host
    text = b""
    try:
        async with session.post(
            f"http://{address}:{DRIVER_PORT}/poll",
            json={"events": events, "stop": stop},
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        ) as response:
            async for chunk in response.content.iter_chunked(1 << 16):
                text += chunk
                if len(text) > LONGEST_ANSWER:
                    return None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    return read_answer(text)
