"""Runs inside the image that image.sh built: is it the user, are these the versions, and does medsd work?
Takes uv.lock.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path


def main(lock: str) -> None:
    assert os.getuid() == os.getgid() == 1000, os.getuid()
    assert sys.version_info[:2] == (3, 11), sys.version
    assert sys.prefix == "/opt/medsd" and not os.access(sys.prefix, os.W_OK), sys.prefix

    locked = {
        package["name"]: package["version"] for package in tomllib.loads(Path(lock).read_text())["package"]
    }
    found = {
        dist.name.lower().replace("_", "-").replace(".", "-"): dist.version
        for dist in importlib.metadata.distributions()
    }
    other = {
        name: version for name, version in found.items() if version.partition("+")[0] != locked.get(name)
    }
    assert not other, f"not the versions of uv.lock: {other}"
    assert "pytest" not in found and "ruff" not in found, "the tools of development are in the image"

    for module in (
        "torch",
        "torchvision",
        "ray",
        "deepspeed",
        "diffusers",
        "kubernetes",
        "kopf",
        "medsd_ray.spec.objects",
    ):
        importlib.import_module(module)
    for command in (
        ["ray", "--version"],
        ["g++", "--version"],
        ["medsd", "prepare", "12", "/tmp/shards", "--kind", "phantom", "--size", "64"],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"{len(found)} packages of uv.lock; medsd prepares shards as user {os.getuid()}")


if __name__ == "__main__":
    main(sys.argv[1])
