"""Checkpoints and folders of models."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fuzz.campaign import Files, Reader
from fuzz.children import holds
from fuzz.mutations import damaged, odd_json
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from tiny import shifted, tiny_components, write_checkpoint

from medsd_ray.errors import InputError
from medsd_ray.models.components import Components
from medsd_ray.models.load import load_components
from medsd_ray.models.save import save_pipeline
from medsd_ray.runs.checkpoint_reader import choose_checkpoint, load_weights
from medsd_ray.runs.checkpoints import describe_checkpoint, newest_complete
from medsd_ray.runs.record import read_run
from medsd_ray.storage import FolderStorage, entry_of_bytes

torch.set_num_threads(1)
NAMES = ("unet.conv_in.bias", "unet.conv_in.weight")
STEPS = (10, 20)


def _files(make: Callable[[Path], Any]) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        found = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


TINY = tiny_components()
MODEL = _files(lambda folder: save_pipeline(TINY, folder))


def _weights(by: float) -> dict[str, torch.Tensor]:
    found = shifted(TINY, "unet", by)
    return {name: found[name] for name in NAMES}


def _run(folder: Path) -> None:
    for step in STEPS:
        store = FolderStorage(folder / f"checkpoints/step-{step:08d}")
        more = {"step": step, "fingerprints": {"unet": "f"}, "sample_size": [8, 8], "scaling_factor": 0.5}
        write_checkpoint(store, "base", {"unet": "full"}, _weights(step), _weights(step + 1), **more)
    for name, value in (("result.json", {"loss": 0.5}), ("best.json", {"step": 10, "validation_loss": 0.5})):
        (folder / name).write_text(json.dumps(value))
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n')
    (folder / "run.yaml").write_text("model: base\noutput: out\n")
    (folder / "manifest.json").write_text("{}")


RUN = _files(_run)
NEWEST = "checkpoints/step-00000020"


def read_checkpoints(folder: Path) -> None:
    """Weights that are taken are those that a checkpoint was written with, of the newest that is whole."""
    output, said = FolderStorage(folder), []
    with tempfile.TemporaryDirectory() as local:
        reader = choose_checkpoint(output, Path(local), said.append)
        if reader is None:
            raise InputError("no complete checkpoint")
        found = {name: reader.parameter(name, "weight") for name in NAMES}
        step = reader.description["step"]
    holds(step in STEPS and (step == 20 or said), "what is left aside is said")
    for name, value in _weights(step).items():
        holds(torch.equal(found[name], value), f"{name} is as it was saved")
    newest = newest_complete(output)
    if newest is not None:
        describe_checkpoint(newest)
    read_run(str(folder))


def read_vouched(folder: Path) -> None:
    """A checkpoint whose checksums are right, whoever wrote it: parameters have the shapes that it says."""
    store = FolderStorage(folder / NEWEST)
    describe_checkpoint(store)
    weights = load_weights(store, raw=True)
    shapes = json.loads((folder / NEWEST / "checkpoint.json").read_bytes())["fragments"]
    found = {f"{part}.{name}": value for part, one in weights.items() for name, value in one.items()}
    holds(found.keys() == {name if "." in name else f"{name}." for name in shapes}, "all parameters")
    for name, value in found.items():
        shape = shapes[name if name in shapes else name.rstrip(".")]["shape"]
        holds(value.dtype == torch.float32 and list(value.shape) == shape, f"{name} is of shape {shape}")
        holds(value.numel() == math.prod(shape), "as many values as its shape says")


@st.composite
def _runs(draw: DrawFn) -> Files:
    """A run in which one or two files are damaged."""
    files = dict(RUN)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(RUN)))
        data = RUN[name]
        odd = odd_json(json.loads(data)) if name.endswith((".json", "COMPLETE")) else damaged([data])
        files[name] = draw(st.just(b"") | st.just(data[: len(data) // 2]) | odd)
    return files


@st.composite
def _vouched(draw: DrawFn) -> Files:
    name = draw(st.sampled_from(["checkpoint.json", "rank-00000.safetensors"]))
    data = RUN[f"{NEWEST}/{name}"]
    data = draw(odd_json(json.loads(data)) if name.endswith("json") else damaged([data]))
    complete = json.loads(RUN[f"{NEWEST}/COMPLETE"])
    complete["files"][name] = entry_of_bytes(data)
    return RUN | {f"{NEWEST}/{name}": data, f"{NEWEST}/COMPLETE": json.dumps(complete).encode()}


def read_model(folder: Path) -> None:
    """A folder that is taken is a model: all of its parts, of finite sizes, all weights there."""
    found: Components = load_components(str(folder))
    for name, module in found.modules().items():
        holds(not any(value.is_meta for value in module.parameters()), f"{name} has its weights")
    holds(len(found.tokenizer) > 0, "a tokenizer with words")


@st.composite
def _models(draw: DrawFn) -> Files:
    name = draw(st.sampled_from(sorted(MODEL)))
    data = MODEL[name]
    odd = odd_json(json.loads(data)) if name.endswith(".json") else damaged([data])
    return MODEL | {name: draw(odd)}


READERS = [
    Reader("checkpoints", _runs(), read_checkpoints, 40),
    Reader("checkpoints vouched for", _vouched(), read_vouched, 40),
    Reader("model folders", _models(), read_model, 40),
]
