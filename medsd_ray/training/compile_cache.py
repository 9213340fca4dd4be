"""What torch.compile has made, kept beside a run's checkpoints, so that a restart does not pay for it again.

compile-cache/TORCH-DEVICE-SHA256.bin, as torch.compiler.save_cache_artifacts gives it. It is code: it is read
from the run's own output alone, as a whole, and by the kind of machine that it was made for.
"""

from __future__ import annotations

import hashlib
import platform
import re
from typing import Any

import torch

from medsd_ray.runs.names import COMPILE_CACHE
from medsd_ray.storage import Storage


class CompileCache:
    """Of a run's `output`, for this process's torch and `device`."""

    def __init__(self, output: Storage, device: torch.device):
        # A CPU's kernels are made for its instruction set.
        cpu = f"{platform.machine()}-{torch.backends.cpu.get_cpu_capability()}"
        machine = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
        self.output = output
        self.prefix = f"{COMPILE_CACHE}/{re.sub('[^0-9A-Za-z.]+', '-', f'{torch.__version__}-{machine}')}-"
        self._kept: set[tuple[str, str]] = set()

    def load(self) -> None:
        """Gives torch.compile what earlier starts of the run have kept; what is damaged is not loaded."""
        for path in self.output.list(self.prefix):
            made = self.output.read(path)
            if path == self._path(made) and (info := torch.compiler.load_cache_artifacts(made)):
                self._kept |= _keys(info)

    def keep(self) -> None:
        """Writes all that is compiled by now, if some of it is not kept yet."""
        made = torch.compiler.save_cache_artifacts()
        if made is None or _keys(made[1]) <= self._kept:
            return
        path = self._path(made[0])
        self.output.write(path, made[0])
        self._kept = _keys(made[1])
        for other in self.output.list(self.prefix):
            if other != path:
                self.output.delete(other)

    def _path(self, made: bytes) -> str:
        return f"{self.prefix}{hashlib.sha256(made).hexdigest()}.bin"


def _keys(info: Any) -> set[tuple[str, str]]:
    """Kind and key of each piece that torch's CacheInfo names."""
    return {(kind, key) for kind, keys in info.artifacts.items() for key in keys}
