"""medsd: adapt latent diffusion models to medical images."""


def __getattr__(name: str) -> str:
    """`__version__`, as pyproject.toml says it: looked up when asked for, so that importing stays quick."""
    if name == "__version__":
        from importlib.metadata import version

        return version("medsd")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
