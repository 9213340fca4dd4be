"""The head pod's driver, asked over HTTP how the run is doing. That it does not answer is a fact, not an error."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

import aiohttp
from pydantic import BaseModel, ConfigDict, Field

from medsd_ray.operator.objects import Stage
from medsd_ray.operator.pods import DRIVER_PORT

TIMEOUT_S = 3.0
LONGEST_ANSWER = 1 << 20

Number = Annotated[float, Field(allow_inf_nan=False)]


class Answer(BaseModel):
    """What the driver answers to a poll."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    stage: Stage
    exit_code: int | None = None
    state: str | None = None
    step: int | None = None
    total: int | None = None
    loss: float | None = None  # of a run that diverges, not a number
    best: Number | None = None
    images_per_second: Number | None = None
    eta_seconds: Number | None = None
    lastUpdateTime: datetime | None = None
    checkpoint_step: int | None = None
    error: str | None = None
    warnings: list[str] = []

    @property
    def over(self) -> bool:
        """Whether all that the driver had to do is done, for good or ill."""
        return self.stage == "done"


def read_answer(text: bytes) -> Answer | None:
    """None where it is not a driver's answer: another server may have the address by now."""
    try:
        return Answer.model_validate(json.loads(text))
    except (ValueError, RecursionError):
        return None


async def poll(session: aiohttp.ClientSession, host: str, events: list[dict[str, Any]], stop: bool) -> Answer | None:
    """`host`: the head pod's address. `stop` asks for a checkpoint and an end. None where nothing answers."""
    address = f"[{host}]" if ":" in host else host
    text = b""
    try:
        async with session.post(
            f"http://{address}:{DRIVER_PORT}/poll",
            json={"events": events, "stop": stop},
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        ) as response:
            async for chunk in response.content.iter_chunked(1 << 16):
                text += chunk
                if len(text) > LONGEST_ANSWER:
                    return None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    return read_answer(text)
