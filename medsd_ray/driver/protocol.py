"""What the operator and the driver in the head pod say to each other: the port, and the answer to a poll."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from medsd_ray.spec.status import Stage

DRIVER_PORT = 8799
"""Of TCP, in the head pod. The chart opens it in its network policy: see tests/unit/test_chart_ray.py."""

POLL_TOKEN_SHA256 = "MEDSD_POLL_TOKEN_SHA256"
"""In the head pod's environment: SHA-256, in hexadecimal, of the token that a poll brings as `Authorization:
Bearer`. A driver without it asks for no token: the operator has no key, or is older than this.
"""

Number = Annotated[float, Field(allow_inf_nan=False)]


class RunProgress(BaseModel):
    """What the driver hands on of the run's progress.json, by the names that it has there."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    state: str | None = None
    step: int | None = None
    total: int | None = None
    loss: float | None = None  # of a run that diverges, not a number
    best: Number | None = None
    images_per_second: Number | None = None
    eta_seconds: Number | None = None
    lastUpdateTime: datetime | None = None


class DriverAnswer(RunProgress):
    """What the driver answers to a poll."""

    stage: Stage
    exit_code: int | None = None
    checkpoint_step: int | None = None
    error: str | None = None
    warnings: list[str] = []

    @property
    def over(self) -> bool:
        """Whether all that the driver had to do is done, for good or ill."""
        return self.stage == "done"
