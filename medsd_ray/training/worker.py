"""What every worker does: `Trainer.train` is the loop. All workers run it in step; worker 0 also keeps the
run's records.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medsd_ray.data.loader import batches
from medsd_ray.data.randomness import keyed_generator
from medsd_ray.errors import RunError
from medsd_ray.retries import with_retries
from medsd_ray.runs.checkpoints import VALIDATION
from medsd_ray.runs.fragments import by_name
from medsd_ray.runs.names import RESULT
from medsd_ray.runs.overfitting import lowest, out_of_patience, overfitting, validations
from medsd_ray.runs.progress import latest_figures
from medsd_ray.storage import open_storage
from medsd_ray.training.averaged_weights import AveragedWeights
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.checkpoint_writer import CheckpointWriter
from medsd_ray.training.collectives import Collectives
from medsd_ray.training.compile_cache import CompileCache
from medsd_ray.training.compute_dtype import compute_dtypes
from medsd_ray.training.datasets import open_dataset, with_prior
from medsd_ray.training.device_batches import on_device, pinned
from medsd_ray.training.ema import Ema
from medsd_ray.training.engine import Engine
from medsd_ray.training.engines import build_engine
from medsd_ray.training.learning_rate import learning_rate_factor
from medsd_ray.training.metrics import LossWindow, ThroughputMeter
from medsd_ray.training.micro_batch_size import choose_micro_batch_size
from medsd_ray.training.reporter import Reporter
from medsd_ray.training.restore import load_weights, newest_usable, restore
from medsd_ray.training.sample_writer import SampleWriter
from medsd_ray.training.snapshot import Snapshot, checkpoint_description
from medsd_ray.training.stages.registry import build_stage
from medsd_ray.training.validation import Validation

SKIPPED_AT_MOST = 5
"""Steps in a row whose gradient is not finite, after which the run has failed."""
REPORT_EVERY_S = 5.0
"""Seconds between reports to Ray Train: its controller reads one in about two seconds, and training waits for
it.
"""


class Trainer:
    """A run on one worker: everything that its loop needs, and the loop."""

    def __init__(
        self, checked: CheckedRun, device: torch.device, report: Callable[[dict[str, Any]], None],
        say: Callable[[str], None],
    ):  # fmt: skip
        """Makes the run ready to go on at step `first`: that of the newest usable checkpoint of the run's
        output, 0 where there is none. torch.distributed is up, and all workers call it.

        Args:
            checked: The run, as the driver has checked it.
            device: This worker's device.
            report: Tells Ray Train a step's metrics.
            say: Gets worker 0's warnings, at once.

        Raises:
            InputError: The checkpoint is of another run, every checkpoint is damaged, or not even one sample
                fits in the GPU's memory.
        """
        self.checked, self.device, self.report = checked, device, report
        run = self.run = checked.run
        self.training = run.training
        self.collectives, self.output = Collectives(device), open_storage(run.output)
        warnings: list[str] = []

        # What is trained, and the samples that it is trained on.
        self.stage = build_stage(checked)
        shown = open_dataset(run, checked.train, self.stage)
        self.dataset = with_prior(run, shown, self.stage)

        # The state of the checkpoint to go on from. Its weights come before the engine, which shards them;
        # moments and averages come after, into the ranges that this worker owns then.
        with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
            found = newest_usable(checked, self.output, Path(folder), self.collectives, warnings.append)
            if found:
                load_weights(self.stage, found)
            self.micro = choose_micro_batch_size(run, self.stage, self.dataset, self.collectives)
            self.engine: Engine = build_engine(
                self.stage.to(device), run, run.learning_rates, self.micro, device
            )
            self.owned_ranges = self.engine.owned_ranges()
            views = [owned.view(owned.tensor) for _, owned in self.owned_ranges]
            self.ema = Ema(views, self.training.ema.decay) if self.training.ema else None
            self.first = restore(self.engine, self.owned_ranges, self.ema, found) if found else 0

        # What this worker saves of a step, and who saves the rest.
        self.snapshot = Snapshot(self.engine, self.owned_ranges, self.ema)
        everyones = self.collectives.all_gather([piece for piece, _ in self.owned_ranges])
        self.pieces = by_name(piece for part in everyones for piece in part)

        # What is written while training goes on: records by worker 0, compiled code, checkpoints by all.
        self.reporter = (
            Reporter(self.output, self.training.max_steps, self.first, warnings, say)
            if self.collectives.rank == 0
            else None
        )
        self.compiled = CompileCache(self.output, device) if self.training.compile else None
        if self.compiled:
            with_retries(self.compiled.load)
        self.writer = CheckpointWriter(
            self.output, self.collectives, run.checkpoint,
            warn=self.reporter.warn if self.reporter else warnings.append,
            before_complete=self._before_complete,
        )  # fmt: skip

        # What happens once in many steps: validation and samples.
        held_out = (
            open_dataset(run, checked.validation, self.stage, "validation") if checked.validation else None
        )
        averages = AveragedWeights(self.engine, self.owned_ranges, self.ema, self.pieces)
        self.validation = (
            Validation(held_out, self.stage, self.engine, averages, self.collectives, self.micro)
            if held_out
            else None
        )
        self.sampler = SampleWriter(
            checked, self.engine, self.owned_ranges, self.ema, self.pieces, self.collectives
        )  # fmt: skip
        self.shown = held_out or shown

        # What the loop keeps from one step to the next.
        self.throughput, self.window = (
            ThroughputMeter(self.training.global_batch_size, device),
            LossWindow(device),
        )
        # Of the whole run, as its records up to the checkpoint have them.
        told = self.reporter and [loss for _, loss in validations(self.reporter.records)]
        self.validation_losses: list[float] = self.collectives.broadcast(told)
        self.compute_dtypes: dict[str, str] | None = None
        self.reported = time.monotonic()

    def train(self) -> None:
        """Every step up to the last, or up to the one in which a stop was asked for; ends with a
        checkpoint.
        """
        stop = False
        steps = enumerate(self.steps(), start=self.first) if not self.patience_is_out() else ()
        for step, micro_batches in steps:
            self.step(step, micro_batches)
            done = step + 1
            stop, to_ray = self.signals()
            last = stop or done == self.training.max_steps
            if last or done % self.training.log_every == 0:
                self.log(done, to_ray or last)
            with self.throughput.paused_if(self.interludes(done, last)):
                validation_loss = self.validate(done)
                last = last or self.patience_is_out()
                self.draw(done)
                if last or is_due(done, self.run.checkpoint.every_steps):
                    self.save(done, validation_loss)
            if stop or self.patience_is_out():
                break
        self.finish(interrupted=stop and not self.patience_is_out())

    def patience_is_out(self) -> bool:
        """Whether the run ends as validation got no better: the same at all workers."""
        return out_of_patience(self.validation_losses, self.training.patience)

    def steps(self) -> Iterator[list[dict[str, Tensor]]]:
        """The micro batches of each step to come, on the device. The loader's thread draws noise and
        timesteps.
        """
        return on_device(
            batches(
                self.dataset, first_step=self.first, last_step=self.training.max_steps,
                global_batch_size=self.training.global_batch_size, micro_batch_size=self.micro,
                rank=self.collectives.rank, world_size=self.collectives.world_size,
                prepare=lambda sample: pinned(self.stage.prepare(sample, "train"), self.device),
            ),
            self.device,
        )  # fmt: skip

    def interludes(self, done: int, last: bool) -> bool:
        """Whether something other than training comes after a step."""
        every = (self.training.sample_every, self.run.checkpoint.every_steps)
        validated = self.validation is not None and self.run.validates_after(done)
        return last or validated or any(is_due(done, n) for n in every)

    def step(self, step: int, micro_batches: list[dict[str, Tensor]]) -> None:
        """Forward and backward on each micro batch, then one update. On a GPU it is only set going: nothing
        here waits for the device, but once, before the first step.
        """
        if self.compute_dtypes is None:
            self.compute_dtypes = compute_dtypes(self.engine, micro_batches[0])
        # What a model draws for itself (dropout layers) is a function of the step too.
        seed = keyed_generator(
            self.run.seed, step * self.collectives.world_size + self.collectives.rank, "model"
        ).integers(2**63)
        torch.manual_seed(int(seed))
        factor = learning_rate_factor(step, self.training.warmup_steps, self.training.max_steps)
        self.window.add(self.engine.step(micro_batches, factor))
        if self.ema:
            self.ema.update(step)
        self.throughput.step_done()

    def check_convergence(self, done: int) -> None:
        """Raises RunError where the last steps changed nothing, as their gradients were not finite. At log
        lines alone, as the device waits.
        """
        skipped = self.engine.skipped()
        if skipped >= SKIPPED_AT_MOST and self.engine.loss_scale.state()[0] <= 1:
            self.writer.wait()
            raise RunError(
                f"training diverged: the gradient was not a finite number in {skipped} steps in a row, "
                f"up to step {done}; lower the learning rate or lengthen its warm-up (checkpoints from "
                "before are kept)"
            )

    def signals(self) -> tuple[bool, bool]:
        """Whether a stop was asked for, and whether a report to Ray Train is due: worker 0's word, at all
        workers.
        """
        wants_stop = bool(self.reporter and self.reporter.stop_requested)
        wants_report = bool(self.reporter and time.monotonic() - self.reported > REPORT_EVERY_S)
        stop, to_ray = self.collectives.max(wants_stop, wants_report)
        return bool(stop), bool(to_ray)

    def log(self, done: int, to_ray: bool) -> None:
        self.check_convergence(done)
        factor = learning_rate_factor(done - 1, self.training.warmup_steps, self.training.max_steps)
        loss_sum, count = self.collectives.sum(self.window.close()).tolist()
        images_per_second, step_seconds = self.throughput.window()
        record = {
            "step": done,
            "position": done * self.training.global_batch_size,
            "loss": loss_sum / count,
            "grad_norm": float(self.engine.norm),
            "learning_rates": {name: peak * factor for name, peak in self.engine.peaks.items()},
            "images_per_second": round(images_per_second, 2),
            "eta_seconds": round((self.training.max_steps - done) * step_seconds, 1),
        }
        if self.reporter:
            self.reporter.log(record)
        if to_ray:
            self.report(record)
            self.reported = time.monotonic()

    def validate(self, done: int) -> float | None:
        if not self.validation or not self.run.validates_after(done):
            return None
        loss = self.validation.loss()
        self.validation_losses.append(loss)
        if self.reporter:
            record = {"step": done, "validation_loss": loss, "validation": VALIDATION}
            self.reporter.log(record | self.validation.figures)
        return loss

    def draw(self, done: int) -> None:
        if self.training.sample_every and (
            done == self.training.max_steps or is_due(done, self.training.sample_every)
        ):
            self.sampler.save(self.output, done, self.shown)

    def save(self, done: int, validation_loss: float | None) -> None:
        about = checkpoint_description(
            self.checked,
            self.engine,
            bool(self.ema),
            self.pieces,
            done,
            validation_loss,
            self.stage.prediction_type,
            self.stage.scaling_factor,
        )
        self.writer.save(done, self.snapshot.take, about)

    def _before_complete(self) -> None:
        """Worker 0, in the thread that writes checkpoints. Who goes on from one finds the records of its
        steps, and need not compile again, though this worker may be lost right after.
        """
        assert self.reporter
        self.reporter.flush()
        if self.compiled:
            try:
                with_retries(self.compiled.keep)
            except Exception as error:  # a checkpoint is worth more
                self.reporter.warn(
                    f"what torch.compile made is not kept, so a restart compiles again: {error}"
                )

    def finish(self, interrupted: bool) -> None:
        """Waits for the last checkpoint and writes result.json. Raises RunError where the checkpoint was not
        saved.
        """
        failure = self.collectives.broadcast(self.writer.wait())
        if failure:
            raise RunError(
                f"training ended, but its last checkpoint could not be saved to {self.output.url}: {failure}"
            )
        memory = self.collectives.all_gather(self.engine.memory())
        if not self.reporter:
            return
        losses = {
            name: next((r[name] for r in reversed(self.reporter.records) if name in r), None)
            for name in ("loss", "validation_loss")
        } | latest_figures(self.reporter.records)
        if said := overfitting(self.reporter.records):
            self.reporter.warn(said)
        result = losses | {
            "validation": self.validation.about() if self.validation else None,
            "step": self.reporter.progress["step"],
            "images_per_second": self.throughput.steady(),
            "optimizer_bytes_per_worker": max(m["optimizer_bytes"] for m in memory),
            "optimizer_bytes": [m["optimizer_bytes"] for m in memory],
            "optimizer_bytes_are": "Adam's two moments, float32, measured from the tensors on each worker",
            "master_weight_bytes_per_worker": max(m["master_weight_bytes"] for m in memory),
            "world_size": self.collectives.world_size,
            "zero_stage": self.training.zero_stage,
            "precision": self.training.precision,
            "compute_dtype": self.compute_dtypes,
            "compile": self.training.compile,
            "cuda_graph": self.engine.graphed,
            "device": device_name(self.device),
            "micro_batch_size": self.micro,
            "global_batch_size": self.training.global_batch_size,
            "last_checkpoint_step": self.writer.last_step,
            "chosen_checkpoint": asdict(choice) if (choice := self.writer.chosen()) else None,
            "ended_early": self.ended_early(self.reporter),
        }
        if not interrupted:
            with_retries(lambda: self.output.write_json(RESULT, result))
            self.output.sync([RESULT])
        self.reporter.close("interrupted" if interrupted else "finished")

    def ended_early(self, reporter: Reporter) -> str | None:
        """Why the run ended before its last step; None where it did not."""
        if not self.patience_is_out() or reporter.progress["step"] == self.training.max_steps:
            return None
        found = validations(reporter.records)
        step, loss = found[lowest([loss for _, loss in found])]
        return f"no validation after step {step} was below its {loss:.5g} (patience {self.training.patience})"

    def abandon(self) -> None:
        """After an error: the records as far as they got."""
        if self.reporter:
            with contextlib.suppress(Exception):  # the error that ended the run is the one to tell
                self.reporter.close("failed")


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's kind, such as `NVIDIA H100 80GB HBM3`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def is_due(done: int, every: int | None) -> bool:
    return every is not None and done % every == 0


def work(
    checked: CheckedRun, device: torch.device, report: Callable[[dict[str, Any]], None],
    say: Callable[[str], None] = lambda text: None,
) -> None:  # fmt: skip
    """One worker's whole run; torch.distributed is up. Raises InputError and RunError."""
    if device.type == "cpu":
        torch.set_num_threads(checked.run.resources.cpus_per_worker)
    else:
        torch.cuda.set_device(device)  # streams and graphs are of the current one
    trainer = Trainer(checked, device, report, say)
    try:
        trainer.train()
    except BaseException:
        trainer.abandon()
        raise
