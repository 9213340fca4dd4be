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
CASES = {
    "cpu": [("small", 64, 32)],
    "cuda": [("sd1", 256, 32), ("sd1", 512, 16), ("sd2", 256, 32), ("sd2", 512, 16)],
}
"""(layout, pixels, images a step)."""
LEVERS: dict[str, dict[str, Any]] = {
    "torch.compile of the repeated blocks": {"compile": True},
    "channels_last activations": {"channels_last": True},
    "AdamW not fused": {"fused": False},
    "bf16 weights, float32 masters": {"precision": "bf16"},
    "explicit attention in place of SDPA": {"explicit_attention": True},
    "ZeRO stage 0": {"zero_stage": 0},
    "ZeRO stage 3": {"zero_stage": 3},
    "moving average (EMA)": {"ema": {"decay": 0.999}},
    "a log line each step": {"log_every": 1},
}
GPU_LEVERS = {"CUDA graphs of the compiled blocks": {"compile": True, "cuda_graphs": True}}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s by the vendor's data sheets."""
MLPERF = {"H100": 127, "H200": 129}
"""MLPerf Training v4.0, SD 2 base at 512 px: images/s of one of 64 GPUs, steady state."""
MOSAIC = {256: 137, 512: 36}
"""MosaicML's diffusion, SD 2 base: images/s of one A100, by pixels; scaled here by peak FLOP/s."""


def main() -> None:
    parser = arguments(__doc__, repetitions=5)
    parser.add_argument("--steps", type=int, default=12, help="steps of one measurement")
    parser.add_argument("--part", choices=("peers", "levers"), help="one of the two alone")
    given = parser.parse_args()
    if given.arm:
        return arm(json.loads(given.arm))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for layout, size, batch in CASES[given.device]:
            rows += case(layout, size, batch, given, Path(folder) / f"{layout}-{size}")
    save("train_step", rows, gpu())


def gpu() -> list[Row]:
    rows = []
    for layout, size, _ in CASES["cuda"]:
        named = [
            ("U-Net training, over diffusers' loop", "images/s", "ratio >= 2"),
            ("U-Net training, over diffusers' loop with latents precomputed", "images/s", None),
            *((name, "images/s", goal) for name, goal in records(layout, size, "H100")),
            ("MFU", "of peak", "ours >= 0.45"),
        ]
        rows += [pending(f"{layout} {size} px: {name}", unit, goal) for name, unit, goal in named]
    return rows


def case(layout: str, size: int, batch: int, given: Any, folder: Path) -> list[Row]:
    from diffusers_loop import write_images

    shards = subject.shards(256, size)
    data = subject.latents(shards, layout, given.device)
    write_images(shards, folder / "images")
    precision = "bf16" if given.device == "cuda" else "fp32"
    common = {"folder": str(folder), "layout": layout, "size": size, "batch": batch, "device": given.device}
    common |= {"latents": data, "precision": precision}
    warm, question = {"steps": 4}, {"steps": given.steps}
    alive = given.device == "cpu"  # a GPU's memory holds one of them at a time
    where = f"{layout} {size} px"

    def measured(arms: list[Arm]) -> dict[str, float]:
        answers = alternate(arms, given.repetitions, warm, alive=alive, **question)
        return {name: median(found, "images_per_second") for name, found in answers.items()}

    ours, peers = Arm("ours", common), [Arm("diffusers", common), Arm("diffusers latents", common)]

    def line(
        name: str, mine: float, peer: float | None, unit: str = "images/s", goal: str | None = None
    ) -> Row:
        return row(
            f"{where}: {name}",
            mine,
            peer,
            unit,
            given.device,
            goal,
            PACKAGES,
            batch=batch,
            precision=precision,
        )

    rows: list[Row] = []
    if given.part != "levers":
        rows += against_peers(measured([ours, *peers]), line, layout, size, given.device)
        flops = ours.ask(flops=True)
        share = flops["flops_per_image"] * rows[0]["ours"] / flops["peak"]
        print(
            f"{where}: {flops['flops_per_image']:.3e} FLOP an image, forward and backward; "
            f"peak {flops['peak']:.3e} FLOP/s"
        )
        rows.append(line("MFU", share, None, "of peak", "ours >= 0.45" if given.device == "cuda" else None))
    for peer in peers:
        peer.close()
    levers = LEVERS | (GPU_LEVERS if given.device == "cuda" else {})
    for name, settings in levers.items() if given.part != "peers" else ():
        lever = Arm(name, common | settings)
        pair = measured([lever, ours])
        lever.close()
        rows.append(line(f"lever: {name}", pair[name], pair["ours"]))
        print(f"{name}: {pair[name]:.1f} against {pair['ours']:.1f} images/s", flush=True)
    ours.close()
    return rows


def against_peers(
    speeds: dict[str, float], line: Callable[..., Row], layout: str, size: int, device: str
) -> list[Row]:
    ours, loop, precomputed = (speeds[name] for name in ("ours", "diffusers", "diffusers latents"))
    rows = [
        line(
            "U-Net training, over diffusers' loop",
            ours,
            loop,
            goal="ratio >= 2" if device == "cuda" else None,
        ),
        line("U-Net training, over diffusers' loop with latents precomputed", ours, precomputed),
        line("latents precomputed, over not, in diffusers' loop", precomputed, loop),
    ]
    if device == "cuda":
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
        found.append(("U-Net training, against MLPerf v4.0's record", f"ours > {MLPERF[gpu]}"))
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
        return {"images_per_second": question["steps"] * options["batch"] / (time.perf_counter() - began)}

    serve(answer)


def diffusers_step(options: dict[str, Any]):
    from diffusers_loop import Loop

    latents = options["latents"] if options["name"].endswith("latents") else None
    images, precision = (
        Path(options["folder"]) / "images",
        {"fp32": "no"}.get(options["precision"], options["precision"]),
    )
    model = subject.model(options["layout"])
    assert precision is not None
    return Loop(model, images, latents, options["size"], options["batch"], precision, options["device"]).step


def ours(options: dict[str, Any]) -> Any:
    """The Trainer of a run, with a lever's settings."""
    import stepper
    import torch

    from medsd_ray.training import zero_engine
    from medsd_ray.training.stages import registry as stages

    stepper.join(options)
    training = {
        name: options[name]
        for name in ("compile", "precision", "zero_stage", "ema", "log_every")
        if name in options
    }
    output = tempfile.mkdtemp(dir=options["folder"])
    values = subject.run(options["layout"], options["latents"], output, max_steps=100_000, **training)
    values["training"]["global_batch_size"] = options["batch"]
    if "fused" in options:
        zero_engine.build_optimizer = lambda groups, training, device: torch.optim.AdamW(
            groups, fused=options["fused"], betas=training.adam_betas, weight_decay=training.weight_decay
        )
    if "cuda_graphs" in options:
        stages._compile = lambda module: module.compile_repeated_blocks(mode="reduce-overhead")  # type: ignore[operator]
    if "explicit_attention" in options:
        load = stages.load_adapted
        stages.load_adapted = lambda spec: _with_explicit_attention(load(spec))
    trainer = stepper.trainer(values, options["device"])
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
    """Of one forward and backward pass of the U-Net, by torch.utils.flop_counter."""
    from torch.utils.flop_counter import FlopCounterMode

    from medsd_ray.training.device_batches import to_device

    sample = trainer.dataset.batch(range(2))
    with FlopCounterMode(display=False) as counter:
        trainer.engine(to_device(trainer.stage.prepare(sample, "train"), trainer.device)).backward()
    return counter.get_total_flops() / 2


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
