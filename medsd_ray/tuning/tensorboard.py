"""TensorBoard's HParams page: a folder a trial below `tensorboard/`, beside each run's own curves."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsd_ray.spec import plan
from medsd_ray.spec.space import short
from medsd_ray.storage import Storage
from medsd_ray.tuning.summary import Trial


def write(trials: Sequence[Trial], output: Storage) -> None:
    """Replaces the logs by those of the trials that have metrics."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    output.delete_tree(plan.BOARD)
    with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
        for trial in trials:
            metrics = {name: value for name, value in trial["metrics"].items() if value is not None}
            if not metrics:
                continue
            settings: dict[str, Any] = {path: _plain(value) for path, value in trial["params"].items()}
            writer = SummaryWriter(f"{folder}/{trial['id']}")
            # `add_hparams` would write a second file beside the writer's own.
            for part in hparams(settings | {"seed": trial["seed"], "trial": trial["id"]}, metrics):
                writer._get_file_writer().add_summary(part)
            for name, value in metrics.items():
                writer.add_scalar(name, value)
            writer.close()
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                output.upload(path, f"{plan.BOARD}/{path.relative_to(folder).as_posix()}")


def _plain(value: Any) -> bool | int | float | str:
    value = short(value)
    return value if isinstance(value, bool | int | float | str) else str(value)
