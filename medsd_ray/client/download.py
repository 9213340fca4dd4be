"""`medsd download`: what a run left in its storage, to a local folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from medsd_ray.addresses import path_of
from medsd_ray.errors import InputError, RunError
from medsd_ray.runs.chosen import chosen_checkpoint
from medsd_ray.runs.names import REPORT, REPORT_DATA
from medsd_ray.storage import COMPLETE, Storage, open_storage
from medsd_ray.storage.folder import make_folder
from medsd_ray.storage.outputs import is_empty, left_by_file_manager


def download(
    output: str,
    dest: Path,
    what: str,
    *,
    report: str | None = None,
    without_memorisation_check: str | None = None,
    raw: bool = False,
) -> None:
    """Fetches `what` (checkpoint, export or report) from a run's `output`.

    The last three options are those of `export`, whose report is the run's own where absent. Raises
    InputError where `dest` is not empty or there is nothing complete to fetch.
    """
    if dest.exists() and (not dest.is_dir() or not is_empty(open_storage(dest))):
        raise InputError(f"{dest}: there already; choose another DEST or remove this one")
    if what != "export" and (report or without_memorisation_check or raw):
        raise InputError("--report, --without-memorisation-check and --raw belong to --what export")
    store = open_storage(output)
    if what == "report":
        source = store.child(REPORT)
        if source.complete() is None:
            raise InputError(f"{source.url}: no complete report; was one asked for, and is the run done?")
        fetch(source, dest)
    elif what == "checkpoint":
        chosen = chosen_checkpoint(store)
        if chosen is None:
            raise InputError(f"{store.url}: no complete checkpoint yet")
        fetch(chosen, dest)
    else:
        from medsd_ray.models.export import export
        from medsd_ray.models.networks.task_run import find_task_run

        own = store.child(REPORT)
        of_task = find_task_run(output) is not None  # whose report is no gate
        if not (report or without_memorisation_check or of_task) and own.exists(REPORT_DATA):
            report = f"{own.url}/{REPORT_DATA}"
        export(
            output, str(dest), report=report, without_memorisation_check=without_memorisation_check, raw=raw
        )


def fetch(source: Storage, dest: Path) -> None:
    """Copies a complete tree to `dest`, each file checked against COMPLETE.

    Raises InputError where a file differs, RunError where one is gone.
    """
    files = [*(source.complete() or {}), COMPLETE]
    dest = path_of(dest).absolute()
    make_folder(dest.parent)
    part = Path(tempfile.mkdtemp(prefix=f".{dest.name}.", suffix=".part", dir=dest.parent))
    try:
        source.download_tree(part, files)
        part.chmod(0o755)
        for left in dest.iterdir() if dest.is_dir() else ():  # else it cannot be replaced
            if left_by_file_manager(left.name):
                left.unlink()
        part.replace(dest)
    except FileNotFoundError as error:
        raise RunError(
            f"{source.url}: a file is gone; the run may just have replaced it: try again"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"{source.url} -> {dest}")
