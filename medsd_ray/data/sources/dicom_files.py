"""DICOM files: which they are, their headers, and their frames decoded.

Nothing of a file is trusted: sizes are checked before memory is taken, and what pydicom quotes of a file is
never passed on.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
import pydicom.config
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments, get_frame, parse_basic_offsets
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.pixels.utils import get_expected_length

from medsd_ray.data.sources import decoder_process
from medsd_ray.data.sources.decoder_process import BrokenFrameError
from medsd_ray.data.sources.decoding_room import decoding_room
from medsd_ray.data.sources.dicom_display import Shown, display
from medsd_ray.data.sources.jpeg import has_all_of_its_image, jpeg_size, with_more_data
from medsd_ray.data.sources.pixels import check_pixels
from medsd_ray.data.sources.source import BadSample

# pydicom warns of odd values by quoting them, and a quoted value may be a name in a log.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\b")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

MAX_BYTES = 2**29
"""Of a deflated file when it is inflated, and of a file with one frame."""
SKIPPED_VALUE = 2**20
"""Bytes of a value in a header from which on it is not read: no table of an image is as long."""
SUFFIXES = (".dcm", ".dicom")
_PIXEL_DATA = ((0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x7FE0, 0x0009))
_J2K_START = b"\xff\x4f\xff\x51"  # SOC and SIZ (ITU-T T.800, A.4 and A.5)
_CUT = "its compressed image lacks its end: damaged or incomplete"
_GPL = (
    "only pylibjpeg-libjpeg decodes, which is under the GPL and so no part of medsd; pip install "
    "pylibjpeg-libjpeg if you accept that, or decompress the file first"
)


def dicom_files(folder: Path) -> Iterator[Path]:
    """The DICOM files below a folder, sorted: by their content, or by a name on .dcm or .dicom. Links are not
    followed, and a DICOMDIR is none.
    """
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            if path.is_symlink() or name.upper() == "DICOMDIR":
                continue
            if path.suffix.lower() in SUFFIXES or (path.is_file() and _is_dicom(path)):
                yield path


def count_links(folder: Path) -> int:
    """How many links below a folder `dicom_files` passes over."""
    return sum(
        Path(parent, name).is_symlink()
        for parent, folders, files in os.walk(folder)
        for name in (*folders, *files)
    )


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or _starts_with_a_tag(head)


def _starts_with_a_tag(head: bytes) -> bool:
    """Whether it begins as a file without a preamble does: with an element of group 2 or 8 (PS3.5 7.1)."""
    if len(head) < 8 or head[0] not in (2, 8) or head[1] or head[3]:
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or int.from_bytes(head[4:8], "little") < 1024


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file; where it is deflated, its data set inflated, without file meta information."""
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            file.seek(0)
        meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != 2)
        if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
            yield io.BytesIO(_inflated(file))
        else:
            file.seek(0)
            yield file


def _inflated(file: BinaryIO) -> bytes:
    """Raises BadSample where it is more than MAX_BYTES, before that much is taken."""
    inflate, parts, left = zlib.decompressobj(-zlib.MAX_WBITS), [], MAX_BYTES
    while chunk := inflate.unconsumed_tail or file.read(2**20):
        parts.append(inflate.decompress(chunk, min(left + 1, 2**24)))
        left -= len(parts[-1])
        if left < 0:
            raise BadSample(
                f"inflates to more than the {MAX_BYTES:,} bytes that are read; decompress it first"
            )
    decoding_room.reserve(2 * (MAX_BYTES - left))
    return b"".join(parts)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Any error as BadSample: pydicom raises nearly every kind on a damaged file, and its text may quote the
    file's.
    """
    try:
        yield
    except BadSample:
        raise
    except InvalidDicomError as error:
        raise BadSample("not a DICOM file; export it again") from error
    except BrokenFrameError as error:
        raise BadSample(f"{error}: damaged or incomplete; export it again") from error
    except MemoryError as error:
        raise BadSample("it does not fit into the memory; make it smaller") from error
    except Exception as error:
        raise BadSample(f"{what}; export it again") from error


def read_header(path: Path, tags: list[str] | None = None) -> Dataset:
    """What stands before the pixels: all of it, or these tags alone. Raises BadSample where it is no DICOM
    file, or a damaged one.
    """
    with _reading("a damaged DICOM file"), _opened(path) as file:
        return _header(file, tags)


def _header(file: BinaryIO, tags: list[str] | None = None) -> Dataset:
    """The header; the file then stands before the pixels."""
    head = file.read(132)
    file.seek(0)
    forced = head[128:] != b"DICM" and _starts_with_a_tag(head)
    forced = forced or (head[:1] == b"\0" and head[1:2] in (b"\x02", b"\x08"))  # big endian
    return pydicom.dcmread(
        file, stop_before_pixels=True, specific_tags=tags, force=forced, defer_size=SKIPPED_VALUE
    )


def number(data: Dataset, keyword: str) -> int:
    """A whole number of the header; 0 where it is absent or empty. Raises BadSample for anything else."""
    value = text(data, keyword)
    if not value:
        return 0
    if not (value.isascii() and value.isdigit()) or len(value) > 9:
        raise BadSample(f"its {keyword} is no number that an image can have; export it again")
    return int(value)


def text(data: Dataset, keyword: str) -> str:
    """A tag's value as text; empty where it is absent. Raises BadSample where it is damaged."""
    with _reading(f"its {keyword} is damaged"):
        value = data.get(keyword)
        return "" if value is None else str(value).strip()


def image_size(data: Dataset) -> tuple[int, int]:
    """(height, width). Raises BadSample where it is no image, or one that is too large."""
    height, width = number(data, "Rows"), number(data, "Columns")
    if not height or not width:
        raise BadSample("holds no image; remove it from the folder")
    check_pixels(height, width)
    return height, width


def frame_count(data: Dataset) -> int:
    """How many frames the header says that there are."""
    return max(1, number(data, "NumberOfFrames"))


def read_frame(path: Path, frame: int = 0) -> Shown:
    """A frame as a viewer shows it. Raises BadSample where its pixels cannot be decoded."""
    with _reading("its pixels cannot be decoded: damaged or incomplete"), _opened(path) as file:
        data = _header(file)
        height, width = image_size(data)
        frames = frame_count(data)
        if frame >= frames:
            raise BadSample("it has fewer frames than before; prepare again")
        samples, bits = max(1, number(data, "SamplesPerPixel")), max(8, number(data, "BitsAllocated"))
        # The frame, a copy of its decoder's, and what is computed of it.
        decoding_room.reserve(height * width * samples * (bits // 8 * 4 + (28 if bits > 16 else 12)))
        syntax = _transfer_syntax(file, data)
        _check_decoder(syntax, data)
        explicit, encoded = _check_pixel_data(file, data, syntax, frame, frames, (height, width))
        file.seek(0)
        as_said = explicit != syntax.is_implicit_VR  # some are written in another way than their syntax
        if syntax.is_encapsulated and syntax != uid.RLELossless:
            said = str(syntax) if as_said else None
            values = decoder_process.decode(str(path), frame, said, height * width)
            if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
                _check_end(path, values, encoded)
        elif as_said:
            values = pixel_array(file, index=frame, transfer_syntax_uid=syntax)
        else:
            values = pixel_array(pydicom.dcmread(file), index=frame)
        if values.shape not in ((height, width), (height, width, 3)):
            raise BadSample(f"an image of {samples} values a pixel; only gray ones and RGB are taken")
        return display(values, data, frame)


def _check_end(path: Path, values: np.ndarray, encoded: bytes) -> None:
    """Raises BadSample where a frame of JPEG Lossless is cut, which GDCM fills up without a word."""
    more = with_more_data(encoded, restarts=False)
    try:
        again = None if more is None else decoder_process.decode(str(path), 0, None, values.size, more)
    except BrokenFrameError:
        again = None
    if again is None or not np.array_equal(values, again):
        raise BadSample(f"{_CUT}; export it again")


def _transfer_syntax(file: BinaryIO, data: Dataset) -> uid.UID:
    """As the file says, else as its first elements are written."""
    said = getattr(data, "file_meta", Dataset()).get("TransferSyntaxUID")
    if said:
        return uid.UID(said)
    implicit, little = data.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _check_decoder(syntax: uid.UID, data: Dataset) -> None:
    """Raises BadSample, with what to do, where nothing here decodes the transfer syntax."""
    if syntax not in uid.UID_dictionary or uid.UID_dictionary[syntax][1] != "Transfer Syntax":
        raise BadSample("its transfer syntax is none that DICOM names; export it again")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise BadSample(
            f"compressed as {syntax.name}, which nothing here decodes; decompress it first, such as with "
            "gdcmconv --raw"
        ) from error
    if not syntax.is_encapsulated:
        return
    if not decoder.is_available:
        raise BadSample(
            f"compressed as {syntax.name}: pip install 'medsd[dicom]', which decodes it, or decompress it "
            "first"
        )
    # What of these GDCM and Pillow refuse (pydicom.pixels.decoders.gdcm, .pillow).
    stored, signed = number(data, "BitsStored"), number(data, "PixelRepresentation") == 1
    twelve = syntax == uid.JPEGExtended12Bit and stored != 8
    near = syntax in uid.JPEGLSTransferSyntaxes and (
        stored in (6, 7) or (syntax == uid.JPEGLSNearLossless and signed and stored < 8)
    )
    if (twelve or near) and not {"pylibjpeg", "pyjpegls"} & set(decoder.available_plugins):
        how = _GPL if twelve else "pyjpegls decodes; pip install pyjpegls, or decompress the file first"
        raise BadSample(f"compressed as {syntax.name} with {stored} bits, which {how}")


def _check_pixel_data(
    file: BinaryIO, data: Dataset, syntax: uid.UID, frame: int, frames: int, size: tuple[int, int]
) -> tuple[bool, bytes]:
    """Whether the pixels, at which the file stands, say of which kind (VR) they are; and the frame as it is
    compressed, empty where it is not.

    Raises BadSample where they are not those that the header says.
    """
    order = "<" if syntax.is_little_endian else ">"
    head = file.read(8)
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4]) not in _PIXEL_DATA:
        raise BadSample("holds no pixels; remove it from the folder")
    explicit = head[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN")
    length = struct.unpack(f"{order}L", file.read(4) if explicit else head[4:])[0]
    several = BadSample(
        "holds more than one frame, though its NumberOfFrames says nothing of it; export it again"
    )
    if not syntax.is_encapsulated:
        if frames == 1 and length != 0xFFFFFFFF and length >= 2 * get_expected_length(data):
            raise several
        return explicit, b""
    encoded, parts = _encoded_frame(file, data, frame, frames)
    if parts > 1:
        raise several
    claimed = size if syntax == uid.RLELossless else jpeg_size(encoded) or _j2k_size(encoded)
    if claimed is None:
        raise BadSample(f"its pixels are not compressed as {syntax.name}, as it says; export it again")
    if claimed != size:
        raise BadSample("its compressed image is of another size than its header says; export it again")
    baseline = syntax == uid.JPEGBaseline8Bit or (
        syntax == uid.JPEGExtended12Bit and number(data, "BitsStored") == 8
    )
    if baseline and not has_all_of_its_image(encoded):
        raise BadSample(f"{_CUT}; export it again")
    return explicit, encoded


def _encoded_frame(file: BinaryIO, data: Dataset, frame: int, frames: int) -> tuple[bytes, int]:
    """A frame as it is compressed, and how many begin in it."""
    if frames > 1:
        offsets = data.get("ExtendedOffsetTable"), data.get("ExtendedOffsetTableLengths")
        extended = offsets if all(offsets) else None
        return get_frame(file, frame, number_of_frames=frames, extended_offsets=extended), 1
    here = file.tell()
    if file.seek(0, os.SEEK_END) - here > MAX_BYTES:
        raise BadSample(f"more than {MAX_BYTES:,} bytes, which no image has; remove it")
    file.seek(here)
    parse_basic_offsets(file)
    fragments = list(generate_fragments(file))
    starts = sum(part.startswith((b"\xff\xd8", _J2K_START)) for part in fragments)
    if data.file_meta.TransferSyntaxUID == uid.RLELossless:
        starts = len(fragments)  # one a frame (PS3.5 A.4.2)
    return b"".join(fragments), starts


def _j2k_size(encoded: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG 2000 codestream, from the image's end and offset on the reference grid.

    None where it is none.
    """
    at = encoded.find(_J2K_START, 0, 4096)
    if at < 0 or len(encoded) < at + 24:
        return None
    right, bottom, left, top = struct.unpack(">4L", encoded[at + 8 : at + 24])
    return bottom - top, right - left
