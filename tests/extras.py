"""What pyproject.toml declares: the distributions of each extra, and the modules that it is for."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
MODULES = {
    "": ["data.prepare", "storage", "client.finetune_client", "client.ray_job_client", "client.download"],
    "train": ["training.run", "generation.generate", "generation.encode", "models.export", "driver.job"],
    "eval": [
        "evaluation.evaluate",
        "evaluation.insert",
        "tuning.tune",
        "tuning.trial",
        "reader_study.report",
    ],
    "dashboard": ["dashboard.app", "reader_study.serve"],
    "operator": ["operator.__main__"],
    "dicom": ["data.sources.dicom"],
}


def declared(extra: str) -> set[str]:
    """The distributions that an extra names, or those needed without one."""
    return {str(canonicalize_name(Requirement(line).name)) for line in EXTRAS[extra]} - {"medsd"}


def requirements(name: str, extra: str) -> list[Requirement]:
    """Of a distribution, with the extra or ("") without: medsd's own by pyproject.toml."""
    if name == "medsd":
        return [Requirement(line) for line in EXTRAS[extra]]
    found = [Requirement(line) for line in importlib.metadata.requires(name) or ()]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": extra})]


def needed(extra: str) -> set[str]:
    """The distributions that `pip install 'medsd[EXTRA]'` installs."""
    found, todo = set(), [("medsd", ""), ("medsd", extra)]
    while todo:
        this = todo.pop()
        if this not in found:
            found.add(this)
            for one in requirements(*this):
                todo += [(canonicalize_name(one.name), each) for each in ("", *one.extras)]
    return {name for name, _ in found}
