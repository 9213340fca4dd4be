"""What medsd imports, what pyproject.toml declares, and which extra brings it."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
from importlib.util import find_spec

from extras import EXTRAS, MODULES, ROOT, declared, needed
from packaging.utils import canonicalize_name

from medsd_ray.cli.main import VERBS
from medsd_ray.cli.packages import NEEDED, missing_package
from medsd_ray.cli.reader_study import reader_study

USED_UNSEEN = {
    "accelerate": "diffusers and transformers load weights by it",
    "ninja": "DeepSpeed compiles by it",
    "plotly": "its script is served as a file",
    "pylibjpeg": "pydicom finds it",
    "pylibjpeg-openjpeg": "pydicom finds it",
    "python-gdcm": "pydicom finds it",
    "tensorboard": "torch.utils.tensorboard writes by it",
    "torch-fidelity": "torchmetrics computes FID and KID by it",
}


def imported() -> dict[str, set[str]]:
    """Top-level modules from outside the standard library, and the files that import them."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "medsd_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(str(path.relative_to(ROOT)))
    return {
        name: files for name, files in found.items() if name not in {*sys.stdlib_module_names, "medsd_ray"}
    }


def test_all_that_is_imported_is_declared_and_all_that_is_declared_is_used():
    known = set().union(*map(declared, EXTRAS))
    providers = importlib.metadata.packages_distributions()
    used = {name: {canonicalize_name(one) for one in providers.get(name, [])} for name in imported()}
    undeclared = {name: sorted(imported()[name]) for name, found in used.items() if not found & known}
    assert not undeclared
    assert known - set().union(*used.values()) == set(USED_UNSEEN)


def test_each_extra_is_tried():
    assert set(MODULES) == set(EXTRAS) - {"all"}
    everything = set().union(*map(declared, MODULES))
    assert everything <= needed("all")


def test_each_verb_that_asks_for_a_package_is_there_and_so_is_the_package():
    verbs = {verb.__name__ for verb in VERBS} | {
        f"reader-study {command.callback.__name__}" for command in reader_study.registered_commands
    }
    assert set(NEEDED) <= verbs
    assert all(find_spec(module) for module in NEEDED.values())


def test_a_module_that_no_extra_brings_is_a_fault_of_the_installation():
    assert missing_package(ModuleNotFoundError(name="triton.language"), "train") is None
    assert missing_package(ModuleNotFoundError(name="torch.nothing"), "train") is not None
