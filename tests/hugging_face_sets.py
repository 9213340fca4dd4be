"""Small folders as Hugging Face `datasets` lays them out, with drawn images."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image
from published_sets import drawn, save, table, write


def png(image: np.ndarray | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(drawn() if image is None else image).save(buffer, "PNG")
    return buffer.getvalue()


def image_folder(folder: Path, metadata: str = "csv", splits: Sequence[str] = ("train", "test")) -> Path:
    """Each split with its images and metadata.csv, .jsonl or .parquet."""
    for number, split in enumerate(splits or [""]):
        rows = [
            {
                "file_name": f"images/{i}.png",
                "text": f"Report {split} {i}.",
                "patient_id": f"p{number}-{i // 2}",
                "label": i % 2,
            }
            for i in range(4)
        ]
        for row in rows:
            save(folder / split / str(row["file_name"]))
        path = folder / split / f"metadata.{metadata}"
        if metadata == "csv":
            write(path, table([list(rows[0]), *(list(row.values()) for row in rows)]))
        elif metadata == "jsonl":
            more = [row | {"objects": {"bbox": [[1, 2, 3, 4]]}} for row in rows]
            write(path, "".join(json.dumps(row) + "\n" for row in more))
        else:
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return folder


def class_folder(folder: Path) -> Path:
    for split in ("train", "test"):
        for finding in ("effusion", "normal"):
            for i in range(2):
                save(folder / split / finding / f"{split}{i}.png")
    return folder


def parquet(folder: Path, change: Callable[[list[dict]], None] = lambda rows: None) -> Path:
    """As `Dataset.push_to_hub` writes it."""
    features = {"image": {"_type": "Image"}, "label": {"names": ["none", "effusion"], "_type": "ClassLabel"}}
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("caption", pa.string()),
            ("label", pa.int64()),
            ("age", pa.float64()),
            ("patient", pa.string()),
            ("tags", pa.list_(pa.string())),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for number, (split, count) in enumerate((("train", 2), ("train", 2), ("test", 1))):
        rows = [
            {
                "image": {"bytes": png(drawn(20 + number, 20 + i)), "path": f"{i}.png"},
                "caption": f"Report {number} {i}.",
                "label": i % 2,
                "age": 91.0 + i,
                "patient": f"p{number}",
                "tags": ["x"],
            }
            for i in range(count)
        ]
        change(rows)
        path = folder / "data" / f"{split}-{number:05d}-of-00003.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=1)
    return folder
