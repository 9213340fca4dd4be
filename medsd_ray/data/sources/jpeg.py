"""What a JPEG's decoder does not say: whether its data suffice for the image that its header claims.

libjpeg fills what is missing with gray and only warns, which Pillow does not pass on. Markers are those of
ITU-T T.81, table B.1.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

_SOI, _EOI, _SOS = b"\xff\xd8", 0xD9, 0xDA
# Frame headers of every kind of JPEG, and of JPEG-LS (T.87); not the tables DHT, JPG and DAC among them.
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # 0 stuffs a byte 0xFF, D0 to D7 restart
_MORE = bytes([0x55, 0xAA, 0x33, 0x5A]) * 16


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Each marker of the first image in the data and where it stands, its last one EOI where it has one."""
    at, scanned = 2, False
    while 0 <= at < len(data) - 1:
        if scanned:
            found = _AFTER_SCAN.search(data, at)
            at = found.end() - 2 if found else -1
            if at < 0:
                return
        elif data[at] != 0xFF:
            return
        if data[at + 1] == 0xFF:  # fill bytes
            at += 1
            continue
        marker = data[at + 1]
        yield marker, at
        if marker == _EOI:
            return
        length = 0 if marker in _ALONE else int.from_bytes(data[at + 2 : at + 4], "big")
        at, scanned = at + 2 + length, marker == _SOS


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) that the header claims; None where there is none."""
    if data.startswith(_SOI):
        for marker, at in _markers(data):
            if marker in _FRAMES:
                height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
                return height, width
    return None


def with_more_data(data: bytes, restarts: bool = True) -> bytes | None:
    """A JPEG with more data before its end: an image that is whole has no use for them, and one that is not
    changes. None where it has no end at all.

    Where the data are cut at the end of a restart interval, more are needed of the next one; `restarts` is
    false for a decoder that takes no such marker in the wrong place.
    """
    places = list(_markers(data))
    end = next((at for marker, at in places if marker == _EOI), None)
    scan = max((at for marker, at in places if marker == _SOS), default=None)
    if end is None or scan is None:
        return None
    more = _MORE
    if places := [at for n in range(0xD0, 0xD8) if (at := data.rfind(bytes([0xFF, n]), scan, end)) >= 0]:
        following = (data[max(places) + 1] - 0xD0 + 1) % 8
        more += bytes([0xFF, 0xD0 + following]) + _MORE if restarts else b""
    return data[:end] + more + data[end:]


def has_all_of_its_image(data: bytes) -> bool:
    """Whether the data of a JPEG, of a kind that Pillow reads, reach to its image's last pixel.

    An eighth of the size is enough to see that, unless the last of several passes over the image is cut.
    """
    more = with_more_data(data)
    try:
        return more is not None and bool((_small(data) == _small(more)).all())
    except OSError:
        return False


def _small(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        if not image.info.get("progressive"):
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        return np.asarray(image)
