"""What torch.compile makes is kept in a run's output, where a process on another machine finds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medsd_ray.storage import FolderStorage
from medsd_ray.training.compile_cache import CompileCache

SCRIPT = """
import json, sys
import torch
from torch._dynamo.utils import counters
from medsd_ray.storage import open_storage
from medsd_ray.training.compile_cache import CompileCache

cache = CompileCache(open_storage(sys.argv[1]), torch.device("cpu"))
cache.load()


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x):
        return torch.nn.functional.gelu(self.linear(x))


torch.manual_seed(0)
block = Block()
block.compile()
block(torch.ones(2, 8)).sum().backward()
for _ in range(2):
    cache.keep()
seen = counters["aot_autograd"]
found = {"hits": seen["autograd_cache_hit"], "misses": seen["autograd_cache_miss"]}
print(json.dumps(found | {"gradient": block.linear.bias.grad.tolist()}))
"""


def compile_again(output: Path, machine: Path) -> dict:
    """In a process whose own cache of compiled code is empty: gradients, and how often that cache was hit and
    missed.
    """
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(machine), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(output)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_restart_elsewhere_compiles_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = compile_again(tmp_path / "run", tmp_path / "one")
    (kept,) = (tmp_path / "run/compile-cache").iterdir()
    assert first["hits"] == 0 and first["misses"] > 0
    made, written = kept.read_bytes(), kept.stat().st_mtime_ns

    again = compile_again(tmp_path / "run", tmp_path / "two")
    assert again == first | {"hits": first["misses"], "misses": 0}
    assert list((tmp_path / "run/compile-cache").iterdir()) == [kept]
    assert kept.stat().st_mtime_ns == written, "the same is not written twice"

    kept.write_bytes(made[:-100])
    given: list[bytes] = []
    monkeypatch.setattr(
        torch.compiler, "load_cache_artifacts", given.append
    )  # which returns None: nothing was loaded
    CompileCache(FolderStorage(tmp_path / "run"), torch.device("cpu")).load()
    assert not given, "half a file is not loaded"
    kept.write_bytes(made)
    CompileCache(FolderStorage(tmp_path / "run"), torch.device("cpu")).load()
    assert given == [made]
