"""Image files as 8-bit grayscale or RGB: the one decoder of all verbs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from medsd_ray.data.sources.decoding_room import decoding_room
from medsd_ray.data.sources.deep_colour import deep_colour
from medsd_ray.data.sources.frames import Frames, chosen
from medsd_ray.data.sources.jpeg import has_all_of_its_image
from medsd_ray.data.sources.label_values import PHOTOMETRIC, WHITE_IS_ZERO, raw_mode, spread, stored_labels
from medsd_ray.data.sources.pixels import CHUNK, MAX_PIXELS, check_pixels, to_8bit, without_colour
from medsd_ray.data.sources.source import BadSample

MAX_BYTES = 2**30
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# TIFF 6.0: bits of NewSubfileType (p. 36) for a page that is a smaller copy of another one, or its mask.
ORIENTATION = 274
# TIFF 6.0: SampleFormat (p. 80).
SAMPLE_FORMAT, UNSIGNED, SIGNED = 339, 1, 2
SUBFILE, SMALLER, MASK = 254, 1, 4

# Pillow reads deep grays where zero is black, and does not know of
# most that it may be white; `plain` turns them.
for (_order, _zero, *_rest), _modes in list(TiffImagePlugin.OPEN_INFO.items()):
    if _zero == 1 and _modes[0][0] in "IF":
        TiffImagePlugin.OPEN_INFO.setdefault((_order, WHITE_IS_ZERO, *_rest), _modes)

warnings.filterwarnings(
    "ignore", category=Image.DecompressionBombWarning
)  # Pillow's own limit; check_pixels says it in words


def open_image(file: Path | bytes, frame: int | None = None) -> np.ndarray:
    """An image file, or the bytes of one, as uint8: (height, width) where it is grayscale in fact, else
    (height, width, 3).

    Turned as its EXIF says, on black where it is transparent, white where it is white on a viewer. Values of
    more than 8 bits become the range that they use (`to_8bit`).

    Args:
        file: The path of a regular file, or a file's bytes.
        frame: The number of the page, from 0. Where it is None, a file of several is refused.

    Raises:
        BadSample: It cannot be read whole, holds several images, or is too large.
    """
    with _reading(), _opened(file) as image:
        pages = _pages(image)
        number = next(iter(chosen(len(pages), None, "pages"))) if frame is None else frame
        if number >= len(pages):
            raise BadSample("it has fewer pages than before; prepare again")
        if pages[number]:
            image.seek(pages[number])
            check_pixels(image.height, image.width)
        _check_decoder(image)
        decoding_room.reserve(image.height * image.width * _bytes_of_a_pixel(image))
        if image.format in ("JPEG", "MPO") and not has_all_of_its_image(
            file if isinstance(file, bytes) else file.read_bytes()
        ):
            raise BadSample("a damaged image (its end is missing); copy it again or drop the row")
        reopened = partial(_opened, file, pages[number])
        if (values := deep_colour(image, reopened)) is not None:
            return without_colour(to_8bit(values)) if values.ndim == 3 else to_8bit(values)
        return plain(image)


def orientation(file: Path | bytes, number: int = 0) -> int:
    """How the EXIF of an image file turns its page of this number, from 1, which is not at all, to 8. Raises
    BadSample where it is no image.
    """
    with _reading(), _opened(file) as image:
        pages = _pages(image)
        return _orientation(image, pages[min(number, len(pages) - 1)])


def _orientation(image: ImageFile, page: int) -> int:
    image.seek(page)
    turned = image.getexif().get(ORIENTATION, 1)
    return turned if turned in range(1, 9) else 1


def open_mask(file: Path, number: int = 0, count: int = 1, turned: int = 1) -> np.ndarray:
    """A mask of an image, uint8 (height, width), as its file has it: a label map, or 0 and 255.

    Args:
        file: A regular file. Palettes' numbers are labels, and so are grays of 2 and 4 bits as they are
            stored; one bit is 0 and 255; 16 bits are taken where the labels fit into 8, or are 0 and 65535.
        number: Of the page, from 0.
        count: How many images the masked file holds; the mask has as many pages.
        turned: The orientation of the masked image, which the mask has too: where one alone is turned, no one
            knows whether the mask was drawn on what is stored or on what is shown.

    Raises:
        BadSample: It cannot be read, has another number of pages, or orientation, or values that are no
            labels.
    """
    with _reading(), _opened(file) as image:
        pages = _pages(image)
        if len(pages) != count:
            raise BadSample(f"{len(pages)} pages where its image has {count}; give it as many")
        if pages[number]:
            image.seek(pages[number])
            check_pixels(image.height, image.width)
        _check_decoder(image)
        raw = raw_mode(image)
        if _orientation(image, pages[number]) != turned:
            raise BadSample("its EXIF and its image's turn them otherwise; save both upright, without EXIF")
        decoding_room.reserve(image.height * image.width * _bytes_of_a_pixel(image))
        return stored_labels(image, raw)


@contextmanager
def _opened(file: Path | bytes, page: int = 0) -> Iterator[ImageFile]:
    """The image file at one of its pages; nothing is decoded yet."""
    if isinstance(file, Path) and file.stat().st_size > MAX_BYTES:
        raise BadSample(f"more than {MAX_BYTES:,} bytes, which no image has; remove it")
    # By a stream: what it opens by a path Pillow maps into memory, and then takes the rows of a TIFF that its
    # EXIF turns onto its side to be as long as its columns are.
    with (
        io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as stream,
        Image.open(stream, formats=FORMATS) as image,
    ):
        check_pixels(image.height, image.width)
        if page:
            image.seek(page)
        yield image


def count_pages(path: Path) -> int:
    """How many images a file holds; nothing is decoded. Raises BadSample where it is no image."""
    with _reading(), _opened(path) as image:
        return len(_pages(image))


def frames_to_take(path: Path, frames: Frames | None) -> tuple[range, int]:
    """The numbers of the pages to take of a file, and how many it has.

    Where nothing says which page to take the file is not opened: reading it tells. Raises BadSample where it
    is no image.
    """
    if frames is None:
        return range(1), 1
    count = count_pages(path)
    return chosen(count, frames, "pages"), count


@contextmanager
def _reading() -> Iterator[None]:
    """What Pillow raises as BadSample, in one line."""
    try:
        yield
    except BadSample:
        raise
    except FileNotFoundError as error:
        raise BadSample("there is no such file; add it or drop the row") from error
    except UnidentifiedImageError as error:
        raise BadSample(f"not an image that can be read; give one of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise BadSample(f"more than the {MAX_PIXELS:,} pixels that are read; make it smaller") from error
    except MemoryError as error:
        raise BadSample("it does not fit into the memory; make it smaller") from error
    except Exception as error:  # a damaged header leads Pillow to nearly any kind
        said = (str(error).splitlines() or [type(error).__name__])[0][:80]
        raise BadSample(f"a damaged image ({said}); copy it again or drop the row") from error


def _check_decoder(image: ImageFile) -> None:
    """Raises BadSample where Pillow's values would not be those of the file, which is not loaded yet."""
    if image.format == "BMP" and image.mode in ("1", "L") and image.fp:
        # Where a palette is gray, Pillow takes pixels to have 1 bit or 8, as many as it has shades.
        image.fp.seek(14)
        header = image.fp.read(16)
        bits = header[10] if header[0] == 12 else header[14]  # BITMAPCOREHEADER is 12 bytes long
        if bits != (1 if image.mode == "1" else 8):
            raise BadSample(f"a BMP of {bits} bits with few grays, which is not read; save it as PNG")
    if image.mode == "L" and _sample_format(image) == SIGNED:
        raise BadSample("values of 8 bits with a sign, which are not read; save it with 16 bits")
    if image.mode == "CMYK" and ";16" in raw_mode(image):
        raise BadSample("CMYK of 16 bits, which is not read; save it in RGB")


def _sample_format(image: Image.Image) -> int:
    return next(iter(np.atleast_1d(_tag(image, SAMPLE_FORMAT) or UNSIGNED)))


def _bytes_of_a_pixel(image: Image.Image) -> int:
    """About how many bytes of memory the decoding of a pixel takes, all copies counted."""
    if image.mode in ("1", "L"):
        return 4
    if image.mode == "F" or image.mode == "I":
        return 20  # a copy for numpy, one for its percentiles, and what is computed of it
    return 8 if image.mode.startswith("I;16") else 16


def _pages(image: Image.Image) -> list[int]:
    """The numbers, in the file, of its pages; smaller copies and masks of pages are none."""
    count = getattr(image, "n_frames", 1)
    if image.format not in ("TIFF", "PNG") or count <= 1:
        return [0]  # a phone's JPEG has the picture first, then what belongs to it (CIPA DC-007)
    if image.format == "PNG":
        return list(range(count))
    chosen(count, "first", "pages")  # refuses a flood of them
    pages = []
    for number in range(count):
        image.seek(number)
        if not int(_tag(image, SUBFILE) or 0) & (SMALLER | MASK):
            pages.append(number)
    image.seek(0)
    return pages or [0]


def _tag(image: Image.Image, tag: int | None):
    return getattr(image, "tag_v2", {}).get(tag)


def plain(image: ImageFile) -> np.ndarray:
    """A file's image of any mode, which is not loaded yet, as uint8: (height, width) where it is grayscale in
    fact, else (height, width, 3).
    """
    white_is_zero, clear = _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO, _transparent_gray(image)
    unsigned = image.format == "TIFF" and image.mode == "I" and _sample_format(image) == UNSIGNED
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I") or image.mode == "F":
        values = _without(np.asarray(image), clear)
        shown = to_8bit(values.view(np.uint32) if unsigned else values)  # Pillow has none of 32 bits
        # Pillow turns the values of 8 bits itself, and leaves larger ones as they are stored.
        return 255 - shown if white_is_zero else shown
    if image.mode in ("1", "L"):
        return _without(np.asarray(image.convert("L")), clear)
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, CHUNK // image.width)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        if part.has_transparency_data:
            part = Image.alpha_composite(Image.new("RGBA", part.size, "black"), part.convert("RGBA"))
        rgb[top : top + rows] = np.asarray(part.convert("RGB"))
    return without_colour(rgb)


def _transparent_gray(image: ImageFile) -> int | None:
    """The gray that a PNG says is transparent, as Pillow's pixels have it; the image is not loaded yet."""
    gray = image.info.get("transparency")
    return (
        gray * spread(raw_mode(image)) if image.mode in ("1", "L", "I;16") and isinstance(gray, int) else None
    )


def _without(values: np.ndarray, clear: int | None) -> np.ndarray:
    """The values on black where they are transparent."""
    return values if clear is None else np.where(values == clear, 0, values).astype(values.dtype)
