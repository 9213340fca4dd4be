"""Which DICOM encodings are read: a table by transfer syntax.

Over the test files that pydicom's package holds, where it is installed those of pydicom-data, and those in
folders that are named.

    python scripts/dicom_table.py [FOLDER ...]
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.data import get_testdata_files
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from medsd_ray.data.sources.dicom_files import (
    dicom_files,
    frame_count,
    image_size,
    read_frame,
    read_header,
)
from medsd_ray.data.sources.source import BadSample


@dataclass
class Row:
    """The files of one transfer syntax."""

    taken: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """File -> why."""


def table(named: list[Path]) -> tuple[dict[str, Row], int]:
    """The rows by transfer syntax, and how many files hold no image."""
    rows: dict[str, Row] = defaultdict(Row)
    without = 0
    folders = sorted({Path(name).parent for name in get_testdata_files("*")})
    top = [one for one in folders if not any(other in one.parents for other in folders)]
    for path in (path for folder in [*top, *named] for path in dicom_files(folder)):
        try:
            header = read_header(path)
            image_size(header)
        except BadSample:
            without += 1
            continue
        row = rows[header.file_meta.get("TransferSyntaxUID", "")]
        try:
            read_frame(path, frame_count(header) // 2)
            row.taken += 1
        except BadSample as error:
            row.refused[path.name] = str(error)
    return rows, without


def decoders(syntax: str) -> str:
    """What decodes a transfer syntax here, such as `gdcm, pillow`."""
    if not syntax or not UID(syntax).is_encapsulated:
        return "pydicom"
    return ", ".join(get_decoder(syntax).available_plugins)


def main() -> None:
    """Prints the table."""
    rows, without = table([Path(name) for name in sys.argv[1:]])
    print("| transfer syntax | decoded by | taken | refused |\n| --- | --- | --- | --- |")
    for syntax, row in sorted(rows.items(), key=lambda item: UID(item[0]).name):
        name = UID(syntax).name or "Deflated, or without file meta information"
        print(f"| {name} | {decoders(syntax)} | {row.taken} | {len(row.refused) or ''} |")
    taken, refused = sum(row.taken for row in rows.values()), sum(len(row.refused) for row in rows.values())
    print(f"\n{taken} of {taken + refused} files with an image are taken; {without} hold none. Refused:\n")
    for row in rows.values():
        for name, reason in row.refused.items():
            print(f"- `{name}`: {reason}")


if __name__ == "__main__":
    main()
