"""The decoders of compressed DICOM pixels, in a process of their own.

They are libraries in C and C++. Damaged data may end the process that they run in (some of GDCM's exceptions
are caught by nobody), keep it busy for minutes (JPEG 2000 with a tile a pixel) or fill its memory; and they
write to standard error as they like. Here none of that reaches whoever asks: a thread's own process decodes
frame after frame, and is started anew after one that broke it.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import threading
import weakref
from multiprocessing.connection import Connection
from multiprocessing.connection import Pipe as pipe

import numpy as np
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array

SECONDS = 15.0
"""What a frame may take, beside a second for each million of its pixels."""
MEMORY = 6 * 2**30
"""Bytes of address space that the process may take."""


class BrokenFrameError(Exception):
    """A frame that cannot be decoded. Its text says what became of the decoder."""


class DecoderProcess:
    """A process that decodes; it ends with this object, or with the process that started it."""

    def __init__(self) -> None:
        self._connection, theirs = pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self.end = weakref.finalize(self, _end, self._connection, self._process)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self.end.alive

    def decode(
        self, path: str, frame: int, syntax: str | None, pixels: int, encoded: bytes | None = None
    ) -> np.ndarray:
        """A frame's stored values. Raises BrokenFrameError, after which the process may be at its end."""
        try:
            self._connection.send((path, frame, syntax, encoded))
            if not self._connection.poll(SECONDS + pixels / 1e6):
                self.end()
                raise BrokenFrameError("its decoder did not come to an end")
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self.end()
            raise BrokenFrameError("its decoder broke down on it") from error
        if isinstance(answer, str):
            raise BrokenFrameError(answer)
        return answer


def _end(connection: Connection, process: subprocess.Popen) -> None:
    connection.close()
    process.kill()
    process.wait()


_thread = threading.local()


def decode(
    path: str, frame: int, syntax: str | None, pixels: int, encoded: bytes | None = None
) -> np.ndarray:
    """A frame's stored values, decoded by this thread's process.

    Args:
        path: The file.
        frame: The frame's number, from 0.
        syntax: The file's transfer syntax; None where the file is not written as that says, so that all of it
            must be read to find the frame.
        pixels: How many a frame has.
        encoded: What is decoded in the place of the frame.

    Raises:
        BrokenFrameError: It cannot be decoded.
    """
    process: DecoderProcess | None = getattr(_thread, "process", None)
    if process is None or not process.alive:
        process = _thread.process = DecoderProcess()
    return process.decode(path, frame, syntax, pixels, encoded)


def _serve(connection: Connection) -> None:
    """Answers until the other side is gone: an array, or words on what went wrong."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            path, frame, syntax, encoded = connection.recv()
            try:
                answer = _values(path, frame, syntax, encoded)
            except MemoryError:
                answer = "its decoder takes more memory than it may"
            except Exception as error:  # pydicom raises nearly any kind, and its text may quote the file's
                answer = f"its pixels cannot be decoded ({type(error).__name__})"
            connection.send(answer)


def _values(path: str, frame: int, syntax: str | None, encoded: bytes | None) -> np.ndarray:
    if encoded is not None:
        data = dcmread(path, stop_before_pixels=True)
        data.NumberOfFrames, data.PixelData = 1, encapsulate([encoded])
        return pixel_array(data, index=0)
    if syntax is None:
        return pixel_array(dcmread(path), index=frame)
    return pixel_array(path, index=frame, transfer_syntax_uid=syntax)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _serve(Connection(int(sys.argv[1])))
