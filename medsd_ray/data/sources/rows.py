"""From a table's rows and the images that they name to records: the one way of every kind that has both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from medsd_ray.data.identifying_values import names_file
from medsd_ray.data.labels import HARMLESS, identifying, labels_of
from medsd_ray.data.sources.captions import left_out_sentences
from medsd_ray.data.sources.columns import Columns
from medsd_ray.data.sources.files import ImageFile, Images
from medsd_ray.data.sources.frames import named
from medsd_ray.data.sources.masks import Box, Boxes, MaskFile, drawn, mask_name
from medsd_ray.data.sources.patients import check_patients
from medsd_ray.data.sources.source import BadSample, Content, Record, Source, stamp
from medsd_ray.data.sources.table import Row, Table, checked_cell, normal_name
from medsd_ray.errors import InputError


@dataclass(frozen=True)
class _Found:
    """A row whose image is there."""

    row: Row
    """With the values of its file."""
    where: str
    file: ImageFile
    patient: str
    caption: str
    masks: Mapping[str, MaskFile]
    boxes: Mapping[str, Sequence[Box]]


def source_of_rows(table: Table, images: Images, columns: Columns, boxes: Boxes | None = None) -> Source:
    """The rows whose image is there, and what is wrong with the others; pixels are read later.

    Args:
        table: Its rows; a layout may have put them together from several files.
        images: Where the images are that they name.
        columns: What the columns mean (`Columns.as_asked`).
        boxes: Boxes of the images, which are drawn as masks.

    Raises:
        InputError: A column is missing, or cannot be what it is asked for.
    """
    columns.check(table, images.fields)
    if boxes:
        rows = (row for row in table.rows if isinstance(row, Row))
        boxes.check({normal_name(row.values[columns.image]) for row in rows})
    source = Source("image", notes=[*table.notes], split_by=columns.patient)
    finder, found = _Finder(images, columns, boxes), []
    for row in table.rows:
        if isinstance(row, str):
            source.problems.append(row)
            continue
        try:
            found.append(finder.find(row))
        except BadSample as error:
            name = row.values[columns.image]
            source.problems.append(f"{row.at(name)}: {error}" if name else f"{row.where}: {error}")
    if not columns.yes_split:
        check_patients(columns.patient, [one.patient for one in found])
    _check_domain(columns, found)
    labels = _label_columns(source, table, columns, found)
    for one in found:
        split = one.row.values[columns.split] if columns.split else ""
        domain = one.row.values[columns.domain] if columns.domain else ""
        source.records += _records(one, labels_of(one.row.values, labels), split or None, domain or None)
    source.notes += left_out_sentences(finder.unsaid)
    if boxes and (left := boxes.of_image.keys() - finder.with_boxes):
        source.notes.append(
            f"{boxes.name}: boxes of {len(left)} images are left out: no row that is taken names them"
        )
    if left := images.left_out(table):
        source.notes.append(left)
    return source


class _Finder:
    """Finds what rows name: images, masks, boxes, patients and captions."""

    def __init__(self, images: Images, columns: Columns, boxes: Boxes | None):
        self.images, self.columns, self.boxes = images, columns, boxes
        self.mask_names = _mask_names(columns, boxes)
        self.unsaid: Counter[str] = Counter()
        """Sentence of the captions' template -> how many captions go without."""
        self.with_boxes: set[str] = set()
        self._places: dict[str, str] = {}

    def find(self, row: Row) -> _Found:
        """The row with its image. Raises BadSample where something of it cannot be used."""
        columns = self.columns
        for column in (columns.image, columns.caption, columns.patient):
            if isinstance(column, str) and column in row.values:
                checked_cell(row, column, ", or make captions with --caption" * (column == columns.caption))
        name = row.values[columns.image]
        file = self.images.find(name)
        if (first := self._places.setdefault(file.name, row.where)) != row.where:
            raise BadSample(f"already in {first}; keep one of them")
        of_file = {key: value for key, value in file.values.items() if not row.values.get(key)}
        row = Row(row.where, {**row.values, **of_file})
        patient = (
            columns.patient_in(file.path or file.name)
            if columns.patient is None
            else checked_cell(row, columns.patient)
        )
        if not patient:
            raise BadSample("--patient-regex does not find a patient in its path; mend it, or drop the row")
        caption, masks = self._caption(row), self._masks(row)
        return _Found(row, row.at(name), file, patient, caption, masks, self._boxes(normal_name(name), file))

    def _caption(self, row: Row) -> str:
        template = self.columns.caption
        for field in [template] if isinstance(template, str) else template.fields:
            if names_file(row.values.get(field, "")):
                raise BadSample(f"the {field} is a file's name, no caption; name another column for captions")
        if isinstance(template, str):
            return " ".join(checked_cell(row, template).split())
        caption, left_out = template.fill(row.values)
        if not caption:
            raise BadSample(
                "each sentence of its caption has an empty field; add one without, or drop the row"
            )
        self.unsaid.update(left_out)
        return caption

    def _masks(self, row: Row) -> dict[str, MaskFile]:
        masks = {}
        for column, name in self.mask_names.items():
            if row.values[column]:
                try:
                    masks[name] = self.images.mask(row.values[column])
                except BadSample as error:
                    raise BadSample(f"mask {row.values[column]}: {error}") from error
        return masks

    def _boxes(self, name: str, file: ImageFile) -> Mapping[str, Sequence[Box]]:
        if not self.boxes or name not in self.boxes.of_image:
            return {}
        if file.count > 1:
            raise BadSample(
                f"holds {file.count} images, and its boxes do not say in which; save each as a file"
            )
        self.with_boxes.add(name)
        return self.boxes.of_image[name]


def _mask_names(columns: Columns, boxes: Boxes | None) -> dict[str, str]:
    """Column -> the name of its mask. Raises InputError where two masks would have one name."""
    names = {column: mask_name(column) for column in columns.masks}
    said = [(name, f"the column {column!r}") for column, name in names.items()]
    said += (
        [(name, f"the finding {text!r} of {boxes.name}") for name, text in boxes.findings.items()]
        if boxes
        else []
    )
    first: dict[str, str] = {}
    for name, what in said:
        if (other := first.setdefault(name, what)) != what:
            raise InputError(f"{other} and {what} would both be the mask {name!r}; rename one")
    return names


def _check_domain(columns: Columns, found: Sequence[_Found]) -> None:
    """Raises InputError where the domain's column holds what may tell who a patient is."""
    if columns.domain is None or columns.domain in columns.labels.insisted:
        return
    if why := identifying([(one.row.where, one.patient, one.row.values[columns.domain]) for one in found]):
        raise InputError(
            f"{why}: --domain-column {columns.domain!r} would stand in the shards in clear; leave it out, or "
            f"insist on it with --yes-label {columns.domain!r}"
        )


def _label_columns(source: Source, table: Table, columns: Columns, found: Sequence[_Found]) -> list[str]:
    """The columns that become labels; the notes of `source` say which do not."""
    asked = {*columns.labels.asked, *columns.labels.insisted}
    others = [
        name
        for name in table.columns
        if name not in (columns.image, columns.patient, *columns.masks)
        and (name not in (columns.caption, columns.domain) or name in asked or name.casefold() in HARMLESS)
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


def _records(found: _Found, labels: Mapping[str, str], split: str | None, domain: str | None) -> list[Record]:
    """A record for each image that is taken of a row's file; `split` is the published one."""
    file, labels = found.file, {**labels, **found.file.labels}
    several = file.count > 1
    known = {name: value for name, value in labels.items() if value}  # what is unknown is no class
    beside: dict[str, Any] = {name: mask.size for name, mask in found.masks.items()}
    beside |= {name: [box.numbers for box in boxes] for name, boxes in found.boxes.items()}
    beside |= {"": domain} if domain else {}
    more = [*([list(file.taken)] if several else []), *([beside] if beside else [])]
    mark = stamp(file.size, found.caption, labels, *more)
    return [
        Record(
            named(file.name, number, file.count),
            found.patient,
            f"{found.where}, frame {number + 1}" if several else found.where,
            mark,
            partial(_read, found, number, known),
            split,
            domain,
        )
        for number in file.taken
    ]


def _read(found: _Found, number: int, labels: Mapping[str, str]) -> Content:
    file = found.file
    image, oddities = file.read(number)
    masks, turned = {}, file.orientation(number) if found.masks or found.boxes else 1
    if found.boxes and turned != 1:
        raise BadSample("its EXIF turns it, and its boxes may be of either; save it upright, without EXIF")
    for name, mask in found.masks.items():
        try:
            masks[name] = mask.read(number, file.count, turned)
        except BadSample as error:
            raise BadSample(f"mask {name}: {error}") from error
    masks |= {name: drawn(boxes, *image.shape[:2]) for name, boxes in found.boxes.items()}
    return Content(image, found.caption, labels, masks, file.warnings, oddities)
