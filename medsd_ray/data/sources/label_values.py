"""The labels of a mask's file as they are stored: decoders scale, invert or cut values so that they look
right, which would make other classes of them.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from medsd_ray.data.sources.pixels import without_colour
from medsd_ray.data.sources.source import BadSample

MOST_CLASSES = 128
"""Values, at most, of a mask."""
MOST_BESIDE_WHITE = 8
"""Values, at most, beside 0 and 255 of a mask that has mostly 255 where it is not 0."""
# TIFF 6.0: PhotometricInterpretation (p. 37).
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
LOSSY = ("jpeg", "tiff_jpeg", "webp")
"""What Pillow calls compressions of a TIFF that change values."""
_MEND = "save it in gray, with a value for each class and 0 for the background"


def raw_mode(image: ImageFile) -> str:
    """How Pillow unpacks the pixels of a file that is not loaded yet, such as `L;2` for two bits of gray
    (Pillow's handbook, "Writing your own image plugin").
    """
    args = image.tile[0].args if image.tile else None
    return args if isinstance(args, str) else str(args[0]) if args else ""


def spread(raw: str) -> int:
    """What Pillow multiplies stored grays by, so that those of 2 and 4 bits go up to 255."""
    return 255 // (2 ** int(raw[2]) - 1) if raw.startswith(("L;2", "L;4")) else 1


def stored_labels(image: ImageFile, raw: str) -> np.ndarray:
    """The labels of a file as it stores them, uint8 (height, width), turned as its EXIF says.

    Args:
        image: The file at its page.
        raw: Its `raw_mode`, from before anything loaded it.

    Raises:
        BadSample: Its values are no labels, or are not kept by its format or its decoder.
    """
    _check_form(image, raw)
    return _sharp(_labels(ImageOps.exif_transpose(image)) // spread(raw))


def _check_form(image: ImageFile, raw: str) -> None:
    if image.format in ("JPEG", "MPO") or image.info.get("compression") in LOSSY:
        raise BadSample("compressed as JPEG or WebP, which change labels; save it as PNG")
    tags = getattr(image, "tag_v2", {})
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO and image.mode != "1":
        raise BadSample(f"a TIFF whose zero is white, so that its background is not clear; {_MEND}")
    if image.mode not in ("1", "L", "P", "F", "LA", "RGB", "RGBA") and not image.mode.startswith("I"):
        raise BadSample(f"coloured; {_MEND}")
    if image.mode in ("LA", "RGB", "RGBA") and ";1" in raw:  # 16 bits a channel, or 15 and 16 bits a pixel
        raise BadSample(f"colours of 16 bits, of which classes are not read; {_MEND}")


def _labels(image: Image.Image) -> np.ndarray:
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    if image.mode == "P":
        return _of_palette(image)
    if image.mode == "L":
        return np.asarray(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if values.dtype.itemsize >= 2 and set(np.unique(values)) <= {0, 65535}:
            return (values > 0).astype(np.uint8) * 255
        with np.errstate(invalid="ignore"):  # what is no number differs from any
            whole = (values == values.astype(np.uint8)).all()
        if not whole:
            raise BadSample("labels that are no whole numbers from 0 to 255; save it with 8 bits")
        return values.astype(np.uint8)
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise BadSample("transparent, so that its labels are not clear; save it in gray")
    labels = without_colour(np.asarray(image.convert("RGB")))
    if labels.ndim == 3:
        raise BadSample(f"coloured; {_MEND}")
    return labels


def _of_palette(image: Image.Image) -> np.ndarray:
    """A palette's numbers; but its shades of gray where it has those alone and its first is not the darkest,
    as programs write that make files smaller.
    """
    numbers = np.asarray(image)
    shades = {
        number: shade for number in np.unique(numbers) if (shade := _shade(image, int(number))) is not None
    }
    if len(shades) < len(np.unique(numbers)) or list(shades.values()) == sorted(shades.values()):
        return numbers
    return np.asarray(image.convert("L"))


def _shade(image: Image.Image, number: int) -> int | None:
    """The gray of a palette's number; None where it is a colour."""
    colour = (image.getpalette() or [])[3 * number : 3 * number + 3]
    return colour[0] if len({*colour}) == 1 and len(colour) == 3 else None


def _sharp(labels: np.ndarray) -> np.ndarray:
    """The labels. Raises BadSample where they look like shades: smoothed edges would be classes."""
    counts = np.bincount(labels.reshape(-1), minlength=256)
    values, between = np.count_nonzero(counts), np.count_nonzero(counts[1:255])
    if values > MOST_CLASSES or (between > MOST_BESIDE_WHITE and counts[255] == counts[1:].max()):
        raise BadSample(
            f"{values} values, as an image or smoothed edges have; save it with a value for each class"
        )
    return labels
