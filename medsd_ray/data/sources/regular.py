"""Only regular files below a source's folder are read."""

from __future__ import annotations

from pathlib import Path

from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import InputError
from medsd_ray.storage import IrregularError, OutsideError, path_below, regular_file


def check_file(folder: Path, path: Path) -> None:
    """Raises BadSample where a path below the folder is no regular file, or a link that leads out of it."""
    try:
        regular_file(path_below(folder, str(path.relative_to(folder))))
    except FileNotFoundError as error:
        raise BadSample("there is no such file; add it or drop the row") from error
    except OutsideError as error:
        raise BadSample("leads out of the folder; keep images below it, and name them from there") from error
    except (IrregularError, IsADirectoryError) as error:
        raise BadSample("not a regular file; remove it, or name another one") from error
    except (InputError, OSError, ValueError) as error:
        raise BadSample("not the name of a file; mend the row") from error
