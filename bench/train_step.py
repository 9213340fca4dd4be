"""Images/s of U-Net training against diffusers' own loop, and what each lever gives: `python
bench/train_step.py`.

On a CPU the small layout; with `--device cuda` SD 1.x at 256 and 512 px and SD 2 base at 512 px, with random
weights. Ours is `Trainer`'s step with all that surrounds it (loader, stop signals, log lines) in a process
group of one.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import subject
from common import THREADS, Arm, Row, alternate, arguments, median, pending, row, save, serve

PACKAGES = ("torch", "diffusers", "accelerate", "deepspeed")
CASES = {"small-64": ("small", 64, 32), "sd1-256": ("sd1", 256, 64), "sd2-512": ("sd2", 512, 64)}
"""(layout, pixels, images a step)."""
DEFAULT = {"cpu": ["small-64"], "cuda": ["sd2-512", "sd1-256"]}
LEVERS: dict[str, dict[str, Any]] = {
    "torch.compile of the repeated blocks": {"compile": True},
    "channels_last activations": {"channels_last": True},
    "bf16 weights, float32 masters": {"precision": "bf16"},
    "explicit attention in place of SDPA": {"explicit_attention": True},
    "ZeRO stage 2": {"zero_stage": 2},
    "ZeRO stage 3": {"zero_stage": 3},
    "moving average (EMA)": {"ema": {"decay": 0.999}},
    "a log line each step": {"log_every": 1},
}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s by the vendor's data sheets."""
MLPERF = {"H100": 145, "H200": 150}
"""MLPerf Training v4.1 (H100, Dell) and v5.0 (H200, HPE), SD 2 base at 512 px: the best images/s of a GPU."""
MOSAIC = {256: 137, 512: 36}
"""MosaicML's diffusion, SD 2 base: images/s of one A100, by pixels; scaled here by peak FLOP/s."""
FLOP_SD2_512 = 2.41e12
"""Of an image, three times the forward pass: what recomputation adds is not counted."""


def main() -> None:
    parser = arguments(__doc__, repetitions=None)
    parser.add_argument(
        "--case", choices=tuple(CASES), action="append", help="again for more; by the device where absent"
    )
    parser.add_argument("--batch", type=int, help="images a step, in place of the case's")
    parser.add_argument("--steps", type=int, default=12, help="steps of one measurement")
    parser.add_argument(
        "--part", choices=("peers", "levers"), help="one of the two; on a GPU the peers where absent"
    )
    given = parser.parse_args()
    if given.arm:
        return arm(json.loads(given.arm))
    on_gpu = given.device == "cuda"
    given.repetitions = given.repetitions or (1 if on_gpu else 5)
    with tempfile.TemporaryDirectory() as folder:
        for name in given.case or DEFAULT[given.device]:
            layout, size, batch = CASES[name]
            Case(layout, size, given.batch or batch, given, Path(folder) / name).run()
    save("train_step", [], pending_rows())


def pending_rows() -> list[Row]:
    rows = []
    for name in DEFAULT["cuda"]:
        layout, size, batch = CASES[name]
        named = [
            ("U-Net training, over diffusers' loop", "images/s", "ratio >= 3"),
            ("U-Net training, over diffusers' loop with latents precomputed", "images/s", "ratio >= 1.8"),
            *((record, "images/s", goal) for record, goal in records(layout, size, "H100")),
            ("MFU", "of peak", "ours >= 0.37"),
        ]
        rows += [pending(f"{title(layout, size, batch)}: {name}", unit, goal) for name, unit, goal in named]
    return rows


def title(layout: str, size: int, batch: int | None) -> str:
    """What a case's rows are called; on a GPU each batch has rows of its own, of which the best counts."""
    return f"{layout} {size} px" + (f", batch {batch}" if batch else "")


class Case:
    """One model at one size: medsd, its peers, and its levers. Rows are saved as each arm ends, so that a run
    which is cut short keeps what it measured.
    """

    def __init__(self, layout: str, size: int, batch: int, given: Any, folder: Path):
        self.layout, self.size, self.batch, self.given = layout, size, batch, given
        self.on_gpu = given.device == "cuda"
        self.title = title(layout, size, batch if self.on_gpu else None)
        folder.mkdir(parents=True)
        self.common = {
            "folder": str(folder), "layout": layout, "size": size, "batch": batch, "device": given.device,
            "precision": "bf16" if self.on_gpu else "fp32", "compile": self.on_gpu,
        }  # fmt: skip
        self.speeds: dict[str, float] = {}

    def run(self) -> None:
        part = self.given.part or ("peers" if self.on_gpu else None)
        if part != "levers":
            self.peers()
        if part != "peers":
            self.levers()

    def peers(self) -> None:
        arms = [Arm(name, self.common) for name in ("ours", "diffusers latents", "diffusers")]
        if not self.on_gpu:  # in turns
            answers = alternate(arms, self.given.repetitions, {"steps": 4}, steps=self.given.steps)
            self.speeds = {name: median(found, "images_per_second") for name, found in answers.items()}
            self.efficiency(arms[0])
        for arm in arms if self.on_gpu else ():  # a GPU's memory holds one of them at a time
            arm.ask(steps=6)
            found = [arm.ask(steps=self.given.steps) for _ in range(self.given.repetitions)]
            self.speeds[arm.name] = median(found, "images_per_second")
            print(
                f"{arm.name}: {self.speeds[arm.name]:.1f} images/s, {found[-1]['memory_gib']:.1f} GiB",
                flush=True,
            )
            save(
                "train_step", against_peers(self.speeds, self.line, self.layout, self.size, self.given.device)
            )
            if arm.name == "ours":
                self.efficiency(arm)
            arm.close()
        save("train_step", against_peers(self.speeds, self.line, self.layout, self.size, self.given.device))
        for arm in arms:
            arm.close()

    def efficiency(self, ours: Arm) -> None:
        flops = ours.ask(flops=True)
        share = flops["flops_per_image"] * self.speeds["ours"] / flops["peak"]
        save(
            "train_step", [self.line("MFU", share, None, "of peak", "ours >= 0.37" if self.on_gpu else None)]
        )

    def levers(self) -> None:
        with Arm("ours", self.common) as ours:
            for name, settings in LEVERS.items():
                with Arm(name, self.common | settings) as lever:
                    answers = alternate(
                        [lever, ours],
                        self.given.repetitions,
                        {"steps": 4},
                        alive=not self.on_gpu,
                        steps=self.given.steps,
                    )
                pair = {arm: median(found, "images_per_second") for arm, found in answers.items()}
                save("train_step", [self.line(f"lever: {name}", pair[name], pair["ours"])])

    def line(
        self,
        name: str,
        mine: float | None,
        peer: float | None,
        unit: str = "images/s",
        goal: str | None = None,
    ) -> Row:
        return row(
            f"{self.title}: {name}", mine, peer, unit, self.given.device, goal, PACKAGES,
            batch=self.batch, precision=self.common["precision"],
        )  # fmt: skip


def against_peers(
    speeds: dict[str, float], line: Callable[..., Row], layout: str, size: int, device: str
) -> list[Row]:
    """Rows of the arms that have ended."""
    ours, loop, precomputed = (speeds.get(name) for name in ("ours", "diffusers", "diffusers latents"))
    on_gpu = device == "cuda"
    rows = [
        line("U-Net training, over diffusers' loop", ours, loop, goal="ratio >= 3" if on_gpu else None),
        line(
            "U-Net training, over diffusers' loop with latents precomputed", ours, precomputed,
            goal="ratio >= 1.8" if on_gpu else None,
        ),
    ]  # fmt: skip
    if loop and precomputed:
        rows.append(line("latents precomputed, over not, in diffusers' loop", precomputed, loop))
    if on_gpu:
        rows += [line(name, ours, None, goal=goal) for name, goal in records(layout, size, gpu_kind())]
    return rows


def records(layout: str, size: int, gpu: str) -> list[tuple[str, str]]:
    """Names and goals of the published figures that ours is held against on a kind of GPU; none where its
    peak is not known.
    """
    if layout != "sd2" or gpu not in PEAKS:
        return []
    found = [
        (
            "U-Net training, against Mosaic's record, scaled",
            f"ours > {MOSAIC[size] * PEAKS[gpu] / PEAKS['A100']:.0f}",
        )
    ]
    if size == 512 and gpu in MLPERF:
        found.append(("U-Net training, against MLPerf's record", f"ours > {MLPERF[gpu]}"))
    return found


def gpu_kind() -> str:
    """One of PEAKS, or another GPU's whole name."""
    import torch

    name = torch.cuda.get_device_name()
    return next((kind for kind in PEAKS if kind in name), name)


# --- an arm's own process


def arm(options: dict[str, Any]) -> None:
    import stepper
    import torch

    torch.set_num_threads(THREADS)
    if options["name"].startswith("diffusers"):
        step = diffusers_step(options)
        trainer = None
    else:
        trainer = ours(options)
        step = stepper.stepping(trainer)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        if question.get("flops"):
            return {"flops_per_image": flops_per_image(trainer, options), "peak": peak(options["device"])}
        stepper.finish(options["device"])
        began = time.perf_counter()
        for _ in range(question["steps"]):
            step()
        stepper.finish(options["device"])
        speed = question["steps"] * options["batch"] / (time.perf_counter() - began)
        memory = torch.cuda.max_memory_allocated() / 2**30 if options["device"] == "cuda" else 0.0
        return {"images_per_second": speed, "memory_gib": memory}

    serve(answer)


def diffusers_step(options: dict[str, Any]) -> Callable[[], None]:
    from diffusers_loop import Loop, write_images

    parts = subject.components(options["layout"], options["device"])
    folder, precomputed = Path(options["folder"]), options["name"].endswith("latents")
    latents = subject.random_latents(folder, parts, options["size"]) if precomputed else None
    if not (images := folder / "images").is_dir():
        write_images(subject.shards(128, options["size"]), images)
    precision = "no" if options["precision"] == "fp32" else options["precision"]
    return Loop(parts, images, latents, options["size"], options["batch"], precision, options["device"]).step


def ours(options: dict[str, Any]) -> Any:
    """The Trainer of a run, with a lever's settings."""
    import stepper

    stepper.join(options)
    names = ("compile", "precision", "zero_stage", "ema", "log_every")
    training = {name: options[name] for name in names if name in options}
    parts = subject.components(options["layout"], options["device"])
    if "explicit_attention" in options:
        parts = _with_explicit_attention(parts)
    folder = Path(options["folder"])
    values = subject.run(
        "small", subject.random_latents(folder, parts, options["size"]), tempfile.mkdtemp(dir=folder),
        max_steps=100_000, global_batch_size=options["batch"], micro_batch_size=options["batch"], **training,
    )  # fmt: skip
    trainer = stepper.trainer_in_memory(values, options["device"], parts)
    if "channels_last" in options:
        prepare = trainer.stage.prepare
        trainer.stage.prepare = lambda *given: _channels_last(prepare(*given))
    return trainer


def _with_explicit_attention(components: Any) -> Any:
    from diffusers.models.attention_processor import AttnProcessor

    components.unet.set_attn_processor(AttnProcessor())
    return components


def _channels_last(batch: dict[str, Any]) -> dict[str, Any]:
    import torch

    return batch | {"noisy": batch["noisy"].contiguous(memory_format=torch.channels_last)}


def flops_per_image(trainer: Any, options: dict[str, Any]) -> float:
    """Of one forward and backward pass of the U-Net: three times the forward's, by
    torch.utils.flop_counter.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from medsd_ray.training.device_batches import to_device

    if (options["layout"], options["size"]) == ("sd2", 512):
        return FLOP_SD2_512
    batch = to_device(trainer.stage.prepare(trainer.dataset.batch(range(2)), "train"), trainer.device)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        trainer.engine(batch)
    return 3 * counter.get_total_flops() / 2


def peak(device: str) -> float:
    """FLOP/s: a GPU's by its data sheet; a CPU's as a large float32 product reaches it here."""
    import torch

    if device == "cuda":
        return PEAKS.get(gpu_kind(), float("nan"))
    a = torch.randn(2048, 2048)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        torch.matmul(a, a)
        best = min(best, time.perf_counter() - began)
    return 2 * 2048**3 / best


if __name__ == "__main__":
    sys.exit(main())
