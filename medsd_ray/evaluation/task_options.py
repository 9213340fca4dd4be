"""What an evaluation of a task run is asked for, as one object."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from medsd_ray.runs.names import REPORT


@dataclass(frozen=True)
class TaskEvaluation:
    """What `medsd evaluate RUN` is asked for. Addresses are paths or s3://.

    Attributes:
        run: The output of a task run, or one checkpoint of it.
        real: Image shards that `prepare` wrote.
        out: Where the report goes; `report` in the run's output where it is None.
        split: The split that judges; `test`, else `validation`, where it is None.
        seed: Of the draws of patients.
        use_gpu: Whether the network runs on a GPU; where None, if there is one.
        precision: Its number format; where None, bf16 on a GPU and fp32 on a CPU.
    """

    run: str
    real: str
    out: str | None = None
    split: str | None = None
    seed: int = 0
    use_gpu: bool | None = None
    precision: str | None = None

    def command(self) -> str:
        """The command line that asks for the same figures."""
        given = {"real": self.real, "out": self.out, "split": self.split, "precision": self.precision}
        words = [word for name, value in given.items() if value for word in (f"--{name}", value)]
        return shlex.join(["medsd", "evaluate", self.run, *words, "--seed", str(self.seed)])


def place(options: TaskEvaluation, output: str) -> str:
    """Where the report goes; `output` is the run's."""
    return options.out or f"{output.rstrip('/')}/{REPORT}"
