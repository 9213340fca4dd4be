"""Which checkpoint a run's output stands for, and how another is asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from medsd_ray.errors import InputError
from medsd_ray.runs.checkpoints import VALIDATION, saved_steps
from medsd_ray.runs.chosen import (
    NAMED,
    NEWEST,
    Choice,
    about_checkpoint,
    checkpoint_address,
    choose,
    chosen_checkpoint,
    figures_of,
    read_figures,
    write_choice,
)
from medsd_ray.runs.names import BEST_CHECKPOINT, CHECKPOINT, checkpoint_folder
from medsd_ray.spec.training import Select
from medsd_ray.storage import FolderStorage, entry_of_bytes

LOSSES = {2: {"validation_loss": 0.5}, 4: {"validation_loss": 0.2}, 6: {}, 8: {"validation_loss": 0.3}}


@pytest.fixture
def output(tmp_path: Path) -> FolderStorage:
    """A run's output with a checkpoint of each step, which says what was measured."""
    output = FolderStorage(tmp_path / "run")
    output.write("run.yaml", b"name: run")
    for step, figures in LOSSES.items():
        about = {
            "step": step,
            "model": "medsd-small",
            "components": {"unet": "full"},
            "validation": VALIDATION,
        }
        data = json.dumps(about | figures).encode()
        store = output.child(checkpoint_folder(step))
        store.write(CHECKPOINT, data)
        store.mark_complete({CHECKPOINT: entry_of_bytes(data)})
    return output


def chosen_step(output: FolderStorage) -> int:
    found = chosen_checkpoint(output)
    assert found
    return found.read_json(CHECKPOINT)["step"]


def test_the_lowest_validation_loss_and_of_equal_ones_the_earliest():
    wanted = Choice(4, "validation_loss", 0.2, "the lowest validation loss, 0.2")
    assert choose(LOSSES, None) == choose(LOSSES, Select(figure="validation_loss")) == wanted
    assert choose(LOSSES | {10: {"validation_loss": 0.2}}, None) == wanted
    assert choose(LOSSES | {10: {"validation_loss": 0.1}}, None).step == 10


def test_the_last_where_it_is_asked_for_or_nothing_was_measured():
    assert choose(LOSSES, Select(figure="last")) == Choice(8, None, None, "the last")
    assert choose({2: {}, 4: {}}, None) == Choice(4, None, None, "the last")
    asked = choose({2: {}, 4: {}}, Select(figure="validation_loss"))
    assert asked.step == 4 and asked.why == "the last, as no checkpoint has a validation_loss"


def test_what_another_beats_is_never_chosen_later():
    """So the writer keeps the chosen one alone beside the newest, and chooses as if all were there."""
    kept: dict[int, dict[str, float]] = {}
    for step, figures in LOSSES.items():
        kept[step] = figures
        seen = {s: f for s, f in LOSSES.items() if s <= step}
        assert choose(kept, None) == choose(seen, None)
        kept = {s: kept[s] for s in {step, choose(kept, None).step}}


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_what_is_no_figure(loss: float | None):
    assert figures_of({"validation_loss": loss, "validation": VALIDATION}) == {}


def test_a_loss_of_an_earlier_version_is_another_figure():
    assert figures_of({"validation_loss": 0.1}) == {}
    assert figures_of({"validation_loss": 0.1, "validation": VALIDATION}) == {"validation_loss": 0.1}


def test_a_runs_output_stands_for_the_chosen_one(output: FolderStorage):
    figures = read_figures(output, saved_steps(output)[0])
    assert figures == LOSSES
    choice = choose(figures, None)
    write_choice(output, choice, figures[choice.step])
    assert chosen_step(output) == 4
    checkpoint = chosen_checkpoint(output)
    assert checkpoint and about_checkpoint(checkpoint, output.url) == {"step": 4, "why": choice.why}
    assert about_checkpoint(checkpoint, checkpoint.url) == {"step": 4, "why": NAMED}


def test_a_run_of_an_earlier_version_stands_for_its_newest(output: FolderStorage):
    output.write_json(BEST_CHECKPOINT, {"step": 4, "validation_loss": 0.2})
    assert chosen_step(output) == 8
    checkpoint = chosen_checkpoint(output)
    assert checkpoint and about_checkpoint(checkpoint, output.url) == {"step": 8, "why": NEWEST}


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_chosen_one_is_said_and_the_newest_taken(
    output: FolderStorage, damage: str, capsys: pytest.CaptureFixture[str]
):
    write_choice(output, choose(LOSSES, None), LOSSES[4])
    if damage == "gone":
        output.delete_tree(checkpoint_folder(4))
    else:
        output.child(checkpoint_folder(4)).write(CHECKPOINT, b"{}")
    assert chosen_step(output) == 8
    assert "the chosen checkpoint, of step 4, is left aside for the newest" in capsys.readouterr().err


def test_another_is_asked_for_by_its_step_or_as_the_last(output: FolderStorage):
    assert checkpoint_address(output.url, False, None) == output.url
    assert checkpoint_address(output.url, True, None) == f"{output.url}/checkpoints/step-00000008"
    assert checkpoint_address(output.url + "/", False, 2) == f"{output.url}/checkpoints/step-00000002"
    with pytest.raises(InputError, match=r"no complete checkpoint of step 3; choose from 2, 4, 6, 8"):
        checkpoint_address(output.url, False, 3)
    with pytest.raises(InputError, match=r"either --last or --step"):
        checkpoint_address(output.url, True, 2)
    with pytest.raises(InputError, match=r"medsd-small: no complete checkpoint here"):
        checkpoint_address("medsd-small", True, None)
