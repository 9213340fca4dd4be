"""The prompts that a command line names."""

from __future__ import annotations

from pathlib import Path

from medsd_ray.errors import InputError


def read_prompts(prompt: str | None, path: Path | None) -> list[str]:
    """One prompt, or the lines of a UTF-8 text file without the blank ones.

    Raises InputError for neither, both, an unreadable file or one without a line.
    """
    if (prompt is None) == (path is None):
        raise InputError("give either --prompt TEXT or --prompts FILE")
    if prompt is not None:
        return [prompt]
    assert path is not None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a text file with one prompt a line") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; give a text file with one prompt a line") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InputError(f"{path}: no prompt in this file; write one a line")
    return prompts
