"""From a table's rows and the images that they name to records: the one way of every kind that has both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from medsd_ray.data.labels import HARMLESS, labels_of
from medsd_ray.data.sources.captions import CaptionTemplate, left_out_sentences
from medsd_ray.data.sources.columns import Columns
from medsd_ray.data.sources.files import ImageFile, Images
from medsd_ray.data.sources.frames import named
from medsd_ray.data.sources.patients import check_patients
from medsd_ray.data.sources.source import BadSample, Content, Record, Source, stamp
from medsd_ray.data.sources.table import Row, Table, checked_cell


@dataclass(frozen=True)
class _Found:
    """A row whose image is there."""

    row: Row
    """With the values of its file."""
    where: str
    file: ImageFile
    patient: str
    caption: str


def source_of_rows(table: Table, images: Images, columns: Columns) -> Source:
    """The rows whose image is there, and what is wrong with the others; pixels are read later.

    Args:
        table: Its rows; a layout may have put them together from several files.
        images: Where the images are that they name.
        columns: What the columns mean (`Columns.as_asked`).

    Raises:
        InputError: A column is missing, or cannot be what it is asked for.
    """
    columns.check(
        [*table.columns, *(name for name in images.fields if name not in table.columns)], table.where
    )
    source = Source("image", notes=[*table.notes], split_by=columns.patient)
    found, unsaid, places = [], Counter[str](), {}
    for row in table.rows:
        if isinstance(row, str):
            source.problems.append(row)
            continue
        name = row.values[columns.image]
        try:
            found.append(one := _find(row, images, columns, unsaid))
            if (first := places.setdefault(one.file.name, row.where)) != row.where:
                found.pop()
                raise BadSample(f"already in {first}; keep one of them")
        except BadSample as error:
            source.problems.append(f"{row.at(name)}: {error}" if name else f"{row.where}: {error}")
    if not columns.yes_split:
        check_patients(columns.patient, [one.patient for one in found])
    labels = _label_columns(source, table, columns, found)
    for one in found:
        split = one.row.values[columns.split] if columns.split else ""
        source.records += _records(one, labels_of(one.row.values, labels), split or None)
    source.notes += left_out_sentences(unsaid)
    if left := images.left_out(table.name, table.names()):
        source.notes.append(left)
    return source


def _find(row: Row, images: Images, columns: Columns, unsaid: Counter[str]) -> _Found:
    """The row with its image. `unsaid` counts the sentences that its caption goes without."""
    for column in (columns.image, columns.caption, columns.patient):
        if isinstance(column, str) and column in row.values:
            checked_cell(row, column)
    name = row.values[columns.image]
    file = images.find(name)
    of_file = {key: value for key, value in file.values.items() if not row.values.get(key)}
    row = Row(row.where, {**row.values, **of_file})
    patient = columns.patient_in(file.name) if columns.patient is None else checked_cell(row, columns.patient)
    if not patient:
        raise BadSample("--patient-regex does not find a patient in its path; mend it, or drop the row")
    if isinstance(columns.caption, CaptionTemplate):
        caption, left_out = columns.caption.fill(row.values)
        if not caption:
            raise BadSample(
                "each sentence of its caption has an empty field; add one without, or drop the row"
            )
        unsaid.update(left_out)
    else:
        caption = " ".join(checked_cell(row, columns.caption).split())
    return _Found(row, row.at(name), file, patient, caption)


def _label_columns(source: Source, table: Table, columns: Columns, found: Sequence[_Found]) -> list[str]:
    """The columns that become labels; the notes of `source` say which do not."""
    asked = {*columns.labels.asked, *columns.labels.insisted}
    others = [
        name
        for name in table.columns
        if name not in (columns.image, columns.patient)
        and (name != columns.caption or name in asked or name.casefold() in HARMLESS)
    ]
    chosen, left_out = columns.labels.among(others, table.where)
    if left_out:
        source.notes.append(
            f"{table.name}: columns left out of the labels: {', '.join(left_out)}; ask for one with "
            "--label-column"
        )
    taken = []
    for name in chosen:
        cells = [(one.row.where, one.patient, one.row.values[name]) for one in found]
        if why := columns.labels.refused(name, cells):
            source.notes.append(why)
        else:
            taken.append(name)
    return taken


def _records(found: _Found, labels: Mapping[str, str], split: str | None) -> list[Record]:
    """A record for each image that is taken of a row's file; `split` is the published one."""
    file, labels = found.file, {**labels, **found.file.labels}
    several = file.count > 1
    known = {name: value for name, value in labels.items() if value}  # what is unknown is no class
    mark = stamp(file.size, found.caption, labels, *([list(file.taken)] if several else []))
    return [
        Record(
            named(file.name, number, file.count),
            found.patient,
            f"{found.where}, frame {number + 1}" if several else found.where,
            mark,
            partial(_read, file, number, found.caption, known),
            split,
        )
        for number in file.taken
    ]


def _read(file: ImageFile, number: int, caption: str, labels: Mapping[str, str]) -> Content:
    image, oddities = file.read(number)
    return Content(image, caption, labels, warnings=file.warnings, oddities=oddities)
