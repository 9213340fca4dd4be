"""What medsd chooses where a run leaves it open, and that it says so."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from specs import RUN, changed

from medsd_ray.data.mixture import SourceMix
from medsd_ray.demo import Workers, choose_workers, vae_run
from medsd_ray.errors import InputError
from medsd_ray.gpus import count_gpus, gpus_of_local_ray, use_gpus
from medsd_ray.spec.load import parse_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.training.auto_settings import Machine, bytes_of_states, choices_in_words, choose
from medsd_ray.training.checked_run import CheckedRun, ModelSize

NONE = Machine(gpus=0, has_bf16=False, gpu_memory=0, cpu_memory=16 * 10**9)
H100 = Machine(gpus=8, has_bf16=True, gpu_memory=80 * 10**9, cpu_memory=500 * 10**9)
MEDIUM = Machine(gpus=2, has_bf16=True, gpu_memory=20 * 10**9, cpu_memory=64 * 10**9)
T4 = Machine(gpus=1, has_bf16=False, gpu_memory=16 * 10**9, cpu_memory=64 * 10**9)
SD2 = ModelSize(trained=866_000_000, frozen=0)


def chosen(
    machine: Machine, changes: dict[str, Any], recorded: RunSpec | None = None, size: ModelSize = SD2
) -> CheckedRun:
    run = parse_run(changed(RUN, {"name": "r"} | changes))
    return choose(CheckedRun(run, "", SourceMix(()), None, None, {}, size=size), machine, recorded)


def values(checked: CheckedRun) -> tuple[Any, ...]:
    training = checked.run.training
    return checked.run.resources.use_gpu, training.precision, training.compile, training.zero_stage


@pytest.mark.parametrize(
    ("machine", "changes", "expected"),
    [
        (NONE, {}, (False, "fp32", False, 0)),  # does not fit, but one worker has nothing to divide
        (H100, {}, (True, "bf16", False, 0)),
        (H100, {"training.max_steps": 500}, (True, "bf16", True, 0)),
        (H100, {"training.precision": "fp32", "training.compile": True}, (True, "fp32", True, 0)),
        (H100, {"resources.use_gpu": False}, (False, "fp32", False, 0)),
        (T4, {}, (True, "fp32", False, 0)),
        (NONE, {"resources.num_workers": 2}, (False, "fp32", False, 3)),
        (H100, {"resources.num_workers": 2, "training.precision": "fp32"}, (True, "fp32", False, 0)),
        (MEDIUM, {"resources.num_workers": 2}, (True, "bf16", False, 1)),
        (H100, {"training.offload": {"optimizer": True}}, (True, "bf16", False, 1)),
        (H100, {"training.offload": {"parameters": True}}, (True, "bf16", False, 3)),
        (
            NONE,
            {name: "auto" for name in ("training.zero_stage", "training.precision", "training.compile")}
            | {"resources.use_gpu": "auto"},
            (False, "fp32", False, 0),
        ),
    ],
)
def test_what_is_left_open_is_chosen_by_the_machine(machine: Machine, changes: dict, expected: tuple):
    checked = chosen(machine, changes)
    assert values(checked) == expected
    left_open = {"use_gpu", "precision", "compile", "zero_stage"} - {
        path.rpartition(".")[2] for path, value in changes.items() if value != "auto"
    }
    assert checked.reasons.keys() == left_open
    assert all(reason in choices_in_words(checked) for reason in checked.reasons.values())


def test_nothing_is_said_of_what_the_user_has_set():
    every = {
        "resources.use_gpu": False, "training.precision": "bf16", "training.compile": False,
        "training.zero_stage": 1,
    }  # fmt: skip
    checked = chosen(H100, every)
    assert values(checked) == (False, "bf16", False, 1)
    assert not checked.reasons and choices_in_words(checked) == ""


def test_fewer_gpus_than_workers_are_refused_with_the_mend():
    with pytest.raises(InputError, match=r"2 workers, but 1 GPUs.*num_workers to 1, or use_gpu to false"):
        chosen(T4, {"resources.num_workers": 2})


def test_a_resumed_run_keeps_precision_and_compile_but_not_stage_and_device():
    before = parse_run(changed(RUN, {"name": "r", "training.precision": "fp32", "training.compile": True}))
    assert values(chosen(H100, {}, before)) == (True, "fp32", True, 0)
    assert values(chosen(H100, {"training.precision": "bf16"}, before))[1] == "bf16"


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("half", [False, True])
def test_each_stage_divides_what_the_one_before_does_and_more(workers: int, half: bool):
    sizes = [bytes_of_states(SD2, stage, workers, half) for stage in range(4)]
    if workers == 1:
        assert len(set(sizes)) <= 2  # float32 masters are all that a stage adds
    else:
        assert sizes[1] > sizes[2] > sizes[3]
    # ZeRO's paper: 2 + 2 + 12 bytes a parameter in half precision; here Adam's gradient is float32 too.
    if half:
        assert sizes[0] == SD2.trained * (2 + 2 + 4 + 8 + 4)
        assert sizes[3] == SD2.trained * (2 + 2 + 4 + 8 + 4) / workers


def test_verbs_take_a_gpu_where_there_is_one_and_never_the_cpu_in_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    here = "medsd_ray.gpus._in_this_machine"
    monkeypatch.setattr(here, lambda: 0)
    assert use_gpus(None, 1) is False and use_gpus(False, 4) is False
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="no GPU here; leave --use-gpu out"):
        use_gpus(True, 1)
    monkeypatch.setattr(here, lambda: 1)
    assert use_gpus(None, 1) is True
    assert "on 1 GPU; --no-use-gpu for the CPU" in capsys.readouterr().out
    monkeypatch.setattr("medsd_ray.gpus._in_ray", lambda workers: 1)
    with pytest.raises(InputError, match="1 GPUs for 2 workers"):
        use_gpus(None, 2)
    assert (
        use_gpus(True, 2) is True
    )  # asked for: the second waits for a GPU, as a run's report in a cluster does


@pytest.mark.parametrize(
    ("gpus", "workers"),
    [(0, Workers(2, False)), (1, Workers(1, True)), (2, Workers(2, True)), (8, Workers(2, True))],
)
def test_the_demo_uses_gpus_where_there_are_some(gpus: int, workers: Workers):
    assert choose_workers(gpus) == workers
    run = vae_run("shards", "out", 10, workers)
    assert (run.resources.num_workers, run.resources.use_gpu) == (workers.count, workers.use_gpu)


@pytest.mark.parametrize(
    ("visible", "driver", "count"),
    [
        (None, 4, 4),
        ("", 4, 0),
        ("-1", 4, 0),
        ("0,2", 4, 2),
        ("0,-1,2", 4, 1),
        ("MIG-a,MIG-b", 1, 1),
        ("0,1", 0, 0),
    ],
)
def test_gpus_are_counted_as_the_driver_says_and_the_environment_allows(
    visible: str | None, driver: int, count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    library = tmp_path / "libnvidia-ml.so.1"  # as NVIDIA's driver brings it
    source = (
        f"int nvmlInit_v2(void){{return 0;}} int nvmlDeviceGetCount_v2(unsigned*n){{*n={driver};return 0;}}"
    )
    compile_it = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(compile_it, input=source, text=True, check=True)
    monkeypatch.setattr("medsd_ray.gpus._NVML", str(library))
    assert count_gpus() == count


def test_without_a_driver_there_is_no_gpu_unless_another_makers_may_be(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("medsd_ray.gpus._NVML", "libnone-of-this-name.so.1")
    monkeypatch.setattr("medsd_ray.gpus._OTHER_MAKERS", ())
    assert count_gpus() == 0
    monkeypatch.setattr("medsd_ray.gpus._OTHER_MAKERS", ("/dev/null",))
    assert count_gpus() is None


def test_the_gpus_of_a_cluster_are_not_those_of_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert gpus_of_local_ray() == 0
    monkeypatch.setenv("RAY_ADDRESS", "ray-head:6379")
    assert gpus_of_local_ray() is None
