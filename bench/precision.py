"""Whether a run in bf16 follows one in fp32: `python bench/precision.py`.

The small model's U-Net is trained on drawn phantoms in fp32 from several seeds and in bf16 from the first of
them, at ZeRO stage 0. What counts is the mean training loss of the last 100 steps and the validation loss at
the end: bf16's beside the spread of fp32's seeds.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import stepper
import subject
from common import Arm, Row, arguments, row, save, serve

PACKAGES = ("torch", "diffusers")
LAST = 100
BATCH = 8


def main() -> None:
    parser = arguments(__doc__, repetitions=1)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3, help="of the runs in fp32")
    given = parser.parse_args()
    if given.arm:
        return arm(json.loads(given.arm))
    latents = subject.latents(subject.shards(256, 64), "small", given.device)
    with tempfile.TemporaryDirectory() as folder:
        common = {"folder": folder, "device": given.device, "latents": latents, "steps": given.steps}
        found = {}
        for precision, seed in [("bf16", 0), *(("fp32", seed) for seed in range(given.seeds))]:
            with Arm(f"{precision} {seed}", common | {"precision": precision, "seed": seed}) as one:
                found[precision, seed] = one.ask()
            print(f"{precision}, seed {seed}: {found[precision, seed]}", flush=True)
    save("precision", [line(name, found, given) for name in ("loss", "validation_loss")])


def line(name: str, found: dict[tuple[str, int], dict[str, Any]], given: Any) -> Row:
    half, single = found["bf16", 0][name], [found["fp32", seed][name] for seed in range(given.seeds)]
    what = f"training loss, mean of the last {LAST}" if name == "loss" else "validation loss"
    return row(
        f"small 64 px, {given.steps} steps: {what}, bf16 over fp32", half, single[0], "loss", given.device,
        "ratio <= 1.02", PACKAGES, batch=BATCH, fp32_of_all_seeds=[round(loss, 5) for loss in single],
        inside_their_spread=min(single) <= half <= max(single), fp32_mean=round(statistics.mean(single), 5),
    )  # fmt: skip


def arm(options: dict[str, Any]) -> None:
    def answer(_: dict[str, Any]) -> dict[str, Any]:
        stepper.join(options)
        output = tempfile.mkdtemp(dir=options["folder"])
        values = subject.run(
            "small",
            options["latents"],
            output,
            max_steps=options["steps"],
            global_batch_size=BATCH,
            log_every=1,
            zero_stage=0,
            precision=options["precision"],
            compile=False,
            learning_rate=1e-4,
        )
        trainer = stepper.trainer(values | {"seed": options["seed"]}, options["device"])
        trainer.train()
        records = [json.loads(text) for text in Path(output, "metrics.jsonl").read_text().splitlines()]
        losses = [record["loss"] for record in records if "loss" in record][-LAST:]
        validation = [record["validation_loss"] for record in records if "validation_loss" in record][-1]
        return {"loss": round(statistics.mean(losses), 5), "validation_loss": round(validation, 5)}

    serve(answer)


if __name__ == "__main__":
    main()
