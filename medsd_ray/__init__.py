"""medsd: adapt latent diffusion models to medical images."""

import os as _os
import pwd as _pwd


def _name_the_user() -> None:
    """Gives a container's user, who may be a number alone, a name in this process and those that it starts:
    MONAI asks for one as it is imported, and fails where there is none.
    """
    if any(_os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        return
    try:
        _pwd.getpwuid(_os.getuid())
    except KeyError:
        _os.environ["USER"] = f"uid-{_os.getuid()}"


_name_the_user()


def __getattr__(name: str) -> str:
    """`__version__`, as pyproject.toml says it: looked up when asked for, so that importing stays quick."""
    if name == "__version__":
        from importlib.metadata import version

        return version("medsd")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
