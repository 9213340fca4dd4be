"""`medsd predict`: what a trained classifier or segmenter says of images, in the images' own size.

out/predictions.json   the run, the settings and the classes, written first
out/predictions.csv    a row for each image
out/masks/NAME.png     of a segmenter: 0 the background, 255 the class, or 1, 2, ... in the order of several
out/masks/NAME.seg.dcm in its place where masks are DICOM
out/COMPLETE           written last
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medsd_ray.addresses import path_of, shown
from medsd_ray.console import ProgressLine, stage
from medsd_ray.data.bad_samples import BadSampleLog
from medsd_ray.data.sources.pixels import resize
from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import InputError
from medsd_ray.generation.prediction_images import PredictionImage, PredictionImages, find_images
from medsd_ray.gpus import use_gpus
from medsd_ray.models.inference import inference_settings
from medsd_ray.models.networks.task_run import TaskRun, need_task_run
from medsd_ray.runs.chosen import about_checkpoint
from medsd_ray.storage import Storage, absolute, entry_of_bytes, open_storage
from medsd_ray.storage.outputs import Complete, Foreign, claim

if TYPE_CHECKING:
    from medsd_ray.models.networks.load import Predictor

FORMAT = "medsd-predictions/1"
RECORD, TABLE, MASKS = "predictions.json", "predictions.csv", "masks"
NOTICE = "For research only, not for diagnosis."
BATCH = 16
MaskFormat = Literal["png", "dicom"]
Encode = Callable[[PredictionImage, np.ndarray], tuple[str, bytes]]
"""From an image and its mask, (height, width) uint8, to the mask's file: its name and what is in it. Raises
BadSample.
"""


def predict(
    trained: str,
    images: str,
    out: str,
    *,
    mask_format: MaskFormat = "png",
    use_gpu: bool | None = None,
    precision: str | None = None,
) -> None:
    """Writes what a task run says of images. An output of the same call is completed, or left as it is where
    complete.

    Args:
        trained: The output of a task run, or one checkpoint of it.
        images: A folder of image or DICOM files, one such file, or image shards.
        out: Where the predictions go, a folder or `s3://` address.
        mask_format: Of a segmenter's masks; `dicom` is for DICOM images alone.
        use_gpu: Whether the network runs on a GPU; where None, if there is one.
        precision: fp32, bf16 or fp16; where None, bf16 on a GPU and fp32 on a CPU.

    Raises:
        InputError: There is no such run or image, `out` holds anything else, masks cannot be of that format,
            or images cannot be read: all others are predicted then.
        RunError: The network gives no numbers.
    """
    run, found = need_task_run(trained), find_images(images)
    _check_apart(images, out)
    if mask_format == "dicom":
        _check_dicom(run, found)
    on_gpu = use_gpus(use_gpu, 1)
    how = inference_settings(on_gpu, precision, False, images=found.count, compile_from=0)
    settings = {
        "format": FORMAT,
        "notice": NOTICE,
        "run": shown(trained),
        "run_fingerprint": run.fingerprint,
        "task": run.task,
        "classes": list(run.classes),
        "size": run.size,
        "fit": run.fit,
        "images_sha256": found.stamp,
        "device": "gpu" if how.use_gpu else "cpu",
        "precision": how.precision,
    }
    if mask_format != "png":
        settings["mask_format"] = mask_format
    told = {"checkpoint": about_checkpoint(run.checkpoint, trained)}
    settings |= told
    store = absolute(open_storage(out))
    existing = claim(store, settings, RECORD, settings_of=lambda value: value | told)
    if isinstance(existing, Complete):
        print(f"{out}: complete, nothing to do")
        return
    if isinstance(existing, Foreign):
        what = f"differs in {', '.join(existing.differing)}" if existing.differing else "is something else"
        raise InputError(f"{out}: what is there {what}; choose another --out or remove this one")
    stage(f"loading the run {trained}")
    from medsd_ray.models.networks.load import load_predictor

    predictor = load_predictor(run, how)
    store.write_json(RECORD, settings)
    _write(store, predictor, found, _encoder(run, mask_format))


def _check_dicom(run: TaskRun, found: PredictionImages) -> None:
    """Raises InputError where masks cannot be DICOM objects, ModuleNotFoundError where a package that writes
    them is missing.
    """
    if run.task != "segmenter":
        raise InputError(f"--mask-format is of a segmenter's masks, and this is a {run.task}; leave it out")
    if found.not_dicom:
        raise InputError(
            f"--mask-format dicom: {found.not_dicom} is no DICOM file that a mask could refer to; give DICOM "
            "files alone, or use png"
        )
    if find_spec("highdicom") is None:
        raise ModuleNotFoundError("No module named 'highdicom'", name="highdicom")


def _encoder(run: TaskRun, mask_format: MaskFormat) -> Encode:
    """How masks are written."""
    from medsd_ray.generation.masks import mask_png

    if mask_format == "png":
        return lambda image, mask: (f"{image.name}.png", mask_png(mask, len(run.classes), image.turned))
    from medsd_ray.generation.dicom_segmentation import SegmentationWriter

    writer = SegmentationWriter(run)

    def encode(image: PredictionImage, mask: np.ndarray) -> tuple[str, bytes]:
        assert image.dicom
        return f"{image.name}.seg.dcm", writer.encode(image.dicom, mask)

    return encode


def _check_apart(images: str, out: str) -> None:
    """Raises InputError where predictions would lie among the images."""
    if "://" in images or "://" in out:
        return
    folder, inside = path_of(images).resolve(), path_of(out).resolve()
    if folder.is_dir() and (inside == folder or folder in inside.parents):
        raise InputError(f"{out}: below the images in {images}, which it would join; choose another --out")


def _write(store: Storage, predictor: Predictor, found: PredictionImages, encode: Encode) -> None:
    bad, rows = BadSampleLog(), []
    entries = {RECORD: entry_of_bytes(store.read(RECORD))}
    with ProgressLine(found.count, "images") as progress:
        for batch in _batches(found, bad):
            for image, row, mask in _predicted(predictor, batch):
                if mask is not None:
                    try:
                        name, data = encode(image, mask)
                    except BadSample as error:
                        bad.add(f"{image.name}: {error}")
                        continue
                    store.write(f"{MASKS}/{name}", data)
                    entries[f"{MASKS}/{name}"] = entry_of_bytes(data)
                rows.append(row)
            progress.add(len(batch))
    if not rows:
        raise InputError(bad.only() or f"none of the {found.count} images can be read{bad.where_listed()}")
    table = _csv(rows)
    store.write(TABLE, table)
    store.mark_complete(entries | {TABLE: entry_of_bytes(table)})
    print(f"{store.url}: {len(rows)} images, of which {TABLE} says what the network does")
    if bad.count:
        raise InputError(
            bad.only() or f"{bad.count} images cannot be read{bad.where_listed()}; the others are predicted"
        )


def _batches(found: PredictionImages, bad: BadSampleLog) -> Iterator[list[PredictionImage]]:
    batch: list[PredictionImage] = []
    for image in found.read():
        if isinstance(image, BadSample):
            bad.add(str(image))
            continue
        batch.append(image)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _predicted(
    predictor: Predictor, images: list[PredictionImage]
) -> Iterator[tuple[PredictionImage, dict[str, Any], np.ndarray | None]]:
    """Each image with its row of the table and, of a segmenter, its mask, (height, width) uint8."""
    run = predictor.run
    fitted = [np.atleast_3d(resize(image.pixels, run.size, run.fit)) for image in images]
    channels = max(one.shape[2] for one in fitted)
    pixels = np.stack([np.broadcast_to(one, (run.size, run.size, channels)) for one in fitted])
    for image, shares in zip(images, predictor.predict(pixels), strict=True):
        if run.task == "classifier":
            yield image, _class_row(image.name, shares, run), None
        else:
            from medsd_ray.generation.masks import to_image

            mask, seen = to_image(shares, image.pixels.shape[:2], run.fit)
            yield image, _mask_row(image.name, mask, seen, run), mask


def _class_row(name: str, shares: np.ndarray, run: TaskRun) -> dict[str, Any]:
    best = int(shares.argmax())
    row: dict[str, Any] = {"image": name, "predicted": run.classes[best]}
    each = zip(run.classes, shares, strict=True)
    return row | {f"probability_{one}": f"{float(share):.6f}" for one, share in each}


def _mask_row(name: str, mask: np.ndarray, seen: np.ndarray, run: TaskRun) -> dict[str, Any]:
    """The share of the image's pixels that each class has, and that the network saw at all."""
    row: dict[str, Any] = {"image": name, "width": mask.shape[1], "height": mask.shape[0]}
    row["share_seen"] = f"{float(seen.mean()):.6f}"
    for number, one in enumerate(run.classes, 1):
        row[f"share_{one}"] = f"{float((mask == number).mean()):.6f}"
    return row


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
