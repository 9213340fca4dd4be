"""Where the studies and runs of a root are: folders with study.json, with study.yaml and progress.json, or
with run.yaml and it.

A study.yaml or run.yaml alone may be what a user wrote, with outputs below its folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from medsd_ray.dashboard.cached_files import CachedFiles, join
from medsd_ray.runs.names import PROGRESS, RUN_SPEC, STUDY, STUDY_SPEC, TRIAL
from medsd_ray.storage import FileInfo

DEPTH = 6


@dataclass
class StudiesAndRuns:
    """Folders below the root, each with its files. A root that is itself a study or run has the path ``."""

    studies: dict[str, dict[str, FileInfo]] = field(default_factory=dict)
    runs: dict[str, dict[str, FileInfo]] = field(default_factory=dict)


def is_study(files: dict[str, FileInfo]) -> bool:
    return STUDY in files or (STUDY_SPEC in files and PROGRESS in files)


def is_run(files: dict[str, FileInfo]) -> bool:
    return RUN_SPEC in files and PROGRESS in files and TRIAL not in files


def find_studies_and_runs(files: CachedFiles, folder: str = "", depth: int = DEPTH) -> StudiesAndRuns:
    """Looks folder by folder, and not below a study or a run: those hold thousands of files."""
    found = StudiesAndRuns()
    _look(files, folder, depth, found)
    return found


def _look(files: CachedFiles, folder: str, depth: int, found: StudiesAndRuns) -> None:
    folders, here = files.level(folder)
    if is_study(here):
        found.studies[folder] = here
    elif is_run(here):
        found.runs[folder] = here
    elif depth:
        for name in folders:
            if not name.startswith("."):
                _look(files, join(folder, name), depth - 1, found)
