"""What `medsd insert` shows of what it measured: a sheet of pictures, and lines for the terminal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medsd_ray.evaluation.report.format import interval_words, number, percent, png_bytes

SHEET = ("before", "reconstruction", "after", "second")
SHOWN = 8  # rows of pictures.png
OUTSIDE = {
    "ssim_outside": "SSIM outside",
    "ssim_outside_of_reconstruction": "of it the VAE's own, without an edit",
    "psnr_outside": "PSNR outside, dB",
    "perceptual_outside": "distance outside, as the detector sees",
}


def sheet(images: dict[str, np.ndarray], where: np.ndarray) -> bytes:
    """The first images as a PNG: a row each of before, reconstruction, after, and the change with the
    region's outline.
    """
    three = {name: np.broadcast_to(p[:SHOWN], (*p[:SHOWN].shape[:3], 3)) for name, p in images.items()}
    change = np.abs(three["after"].astype(float) - three["before"].astype(float)).mean(-1)
    change = np.repeat((255 * change / max(change.max(), 1.0)).astype(np.uint8)[..., None], 3, axis=-1)
    some = where[:SHOWN]
    inner = some & np.roll(some, 1, 1) & np.roll(some, -1, 1) & np.roll(some, 1, 2) & np.roll(some, -1, 2)
    change[some & ~inner] = (255, 200, 87)
    columns = [three[name] for name in SHEET if name in three] + [change]
    gap = np.full((*columns[0].shape[:2], 4, 3), 255, np.uint8)
    rows = np.concatenate([part for column in columns for part in (column, gap)][:-1], axis=2)
    picture = np.concatenate([np.pad(row, ((0, 4), (0, 0), (0, 0)), constant_values=255) for row in rows])[
        :-4
    ]
    scale = max(1, 192 // images["before"].shape[1])
    return png_bytes(picture.repeat(scale, 0).repeat(scale, 1), optimize=True)


def summary(found: dict) -> str:
    """A few lines for the terminal."""
    response = found["response"]
    lines = [f"{found['settings']['method']}, {found['pairs']} images; region: {found['region']['source']}"]
    for name in SHEET:
        if response.get(name):
            shown, beside = response[name]["shown"], interval_words(response[name], "shown", percent, "95%: ")
            lines.append(f"{name:<16}{percent(shown):>7} show {response['target']} ({beside})")
    if response["gain"] is None:
        lines.append(f"response: not measured, {response['gain_reason']}")
    for name, words in OUTSIDE.items():
        if name in found:
            lines.append(f"{words}: {_said(found, name)}")
    if second := found.get("second_visit"):
        nearer = _said(second, "nearer", percent)
        lines.append(f"nearer to the second visit than the first is, as the detector sees: {nearer}")
        for name in ("before", "after"):
            lines.append(f"SSIM with the second visit, {name}: {_said(second[name], 'ssim')}")
    return "\n".join(lines)


def _said(section: dict, name: str, form: Callable[[float], str] = number) -> str:
    """A figure with its interval, or why there is none."""
    if reason := section.get(f"{name}_reason"):
        return reason
    return f"{form(section[name])} ({interval_words(section, name, form, '95%: ')})"
