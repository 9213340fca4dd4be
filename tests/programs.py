"""The programs that the tests run beside medsd: Kubernetes, etcd, Helm and the S3 server, and KubeRay's CRDs.

`make programs` builds them from Go modules (tests/cluster/build.sh), and tests/cluster/programs.sh says where
they are.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CLUSTER = Path(__file__).parent / "cluster"
FOLDER = Path(
    subprocess.run([CLUSTER / "programs.sh"], check=True, capture_output=True, text=True).stdout.strip()
)
BIN = FOLDER / "bin"
KUBERAY_CRDS = FOLDER / "kuberay-crds"


def missing(*names: str) -> list[str]:
    """Those of these programs that were not built."""
    return [name for name in names if not (BIN / name).exists()]


def find(name: str) -> str | None:
    """The path of the one that was built, else of the machine's own, else None."""
    return str(BIN / name) if not missing(name) else shutil.which(name)


def build(*modules: str) -> str | None:
    """Builds these modules of build.sh where they are not there. Returns why that failed, or None."""
    if shutil.which("go") is None:
        return "no Go is installed"
    done = subprocess.run([CLUSTER / "build.sh", *modules], capture_output=True, text=True)
    if done.returncode:
        return (
            f"build.sh {' '.join(modules)} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        )
    return None
