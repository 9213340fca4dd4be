"""Radiology reports of the Indiana University collection (OpenI): one XML file a report, with the names of
its images.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from medsd_ray.data.labels import LabelColumns, labels_of
from medsd_ray.data.sources.captions import CaptionTemplate, left_out_sentences
from medsd_ray.data.sources.files import existing_folder
from medsd_ray.data.sources.image_files import open_image
from medsd_ray.data.sources.regular import check_file
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample, Content, Record, Source, stamp
from medsd_ray.data.sources.table import normal_name

MAX_BYTES = 10 * 2**20


SECTIONS = (
    "impression",
    "findings",
    "indication",
)  # the conclusion first: a text encoder cuts long captions at their end


SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Report:
    patient: str
    sections: dict[str, str]
    mesh: str
    images: tuple[str, ...]

    @property
    def fields(self) -> dict[str, str]:
        """What a caption's template may name: the sections and `mesh`."""
        return self.sections | {"mesh": self.mesh}

    @property
    def caption(self) -> str:
        """'Impression: … Findings: … Indication: …', without the sections that are empty; '' where all
        are.
        """
        return " ".join(
            f"{name.capitalize()}: {self.sections[name]}" for name in SECTIONS if self.sections.get(name)
        )


def clean(text: str) -> str:
    """The text without the collection's XXXX blanks, which stand for words that anonymisation removed.

    'x-XXXX' is always 'x-ray'; 'XXXX-year-old' goes whole, and so do other compounds; then stray punctuation
    and spaces.
    """
    text = re.sub(r"\bx-X{4}", "x-ray", " ".join(text.split()))
    text = re.sub(r"\b\w*X{4}\w*(?: years? old\b|(?:-\w+)+)?(?:'s\b)?", " ", text)
    text = re.sub(r"\s+([.,;:?!])", r"\1", " ".join(text.split()))  # spaces before punctuation
    text = re.sub(
        r"[,;:]+(?=[.,;:?!])|(?<=[.?!])[.,;:?!]+", "", text
    )  # marks that met: the last of , ; : or the first of . ? !
    text = re.sub(r"(?<=[.?!]) +[.,;:]+(?= |$)", "", text)
    text = re.sub(r"\s+", " ", text).strip(" ,;:-")
    return text + "." * (text[-1] not in ".?!") if re.search(r"\w", text) else ""


def parse(data: bytes) -> Report:
    """Raises BadSample for what is no such report. A document type is refused: it is where XML entities
    expand without end.
    """
    root = _tree(data)
    uid = root.find("uId")
    patient = (uid.get("id") or "").strip() if uid is not None else ""
    if not patient:
        raise BadSample("no uId in it, so it is no OpenI report; remove it from the folder")
    sections = {
        (e.get("Label") or "").lower(): clean("".join(e.itertext())) for e in root.iter("AbstractText")
    }
    mesh = "; ".join(text for e in root.iterfind("MeSH/major") if (text := "".join(e.itertext()).strip()))
    images = tuple(
        normal_name(name) for e in root.iter("parentImage") if (name := (e.get("id") or "").strip())
    )
    return Report(patient, {name: sections.get(name, "") for name in SECTIONS}, mesh, images)


def _tree(data: bytes) -> Element:
    def refuse(*_) -> None:
        raise BadSample("it declares a document type, which no OpenI report does; remove it from the folder")

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise BadSample(f"not well-formed XML ({error}); copy it again") from error
    except (LookupError, ValueError) as error:
        raise BadSample("an encoding of text that is not known; save it as UTF-8") from error
    return builder.close()


def scan(request: SourceRequest) -> Source:
    """The reports below SOURCE, one in each XML file; images are read later.

    With `images`, a folder, there is one sample for each image of a report, else one of text for each report.
    A label may be `mesh`, a report's major terms of MeSH; a caption's template has that and the sections.

    Raises:
        InputError: One of the folders is absent, or what is asked for cannot be a label or a caption's field.
    """
    folder = existing_folder(request.source)
    template = None if request.caption is None else CaptionTemplate.parse(request.caption)
    if template:
        template.check((*SECTIONS, "mesh"), (), request.source)
    files = _image_files(existing_folder(request.images, "--images")) if request.images is not None else None
    found, unsaid = Source("text" if files is None else "image"), Counter[str]()
    without_text, without_image = 0, 0
    reports = _reports(folder, found)
    columns, notes = _label_columns(reports, request.labels, request.source)
    found.notes += notes
    for where, report in reports.items():
        labels = labels_of({"mesh": report.mesh} if report.mesh else {}, columns)
        caption, left_out = template.fill(report.fields) if template else (report.caption, [])
        unsaid.update(left_out)
        if not caption:
            without_text += 1
        elif files is None:
            found.records.append(_record(report, report.patient, where, None, caption, labels))
        elif not report.images:
            without_image += 1
        else:
            _add_images(found, report, where, files, caption, labels)
    found.notes += left_out_sentences(unsaid)
    if without_text:
        of = "all sentences of their caption" if template else "all their sections"
        found.notes.append(f"{without_text} reports are left out: {of} are empty")
    if without_image:
        found.notes.append(f"{without_image} reports are left out: they name no image")
    if files and (left := len(files.keys() - {name for one in reports.values() for name in one.images})):
        found.notes.append(f"{left} images are left out: no report names them")
    return found


def _reports(folder: Path, found: Source) -> dict[str, Report]:
    """File -> its report, of those that can be read; a line for each other in the problems of `found`."""
    reports, seen = {}, set()
    for path in sorted(folder.rglob("*.xml")):
        where = path.relative_to(folder).as_posix()
        try:
            check_file(folder, path)
            report = parse(_bytes(path))
            if report.patient in seen:
                raise BadSample("another file has the same uId; keep one of them")
        except BadSample as error:
            found.problems.append(f"{where}: {error}")
            continue
        seen.add(report.patient)
        reports[where] = report
    return reports


def _label_columns(
    reports: Mapping[str, Report], asked: LabelColumns, source: str
) -> tuple[list[str], list[str]]:
    """The fields that become labels, and what to say of those that do not."""
    columns, left_out = asked.among(["mesh"] if any(one.mesh for one in reports.values()) else [], source)
    notes = [f"left out of the labels: {name}; ask for it with --label-column {name}" for name in left_out]
    cells = [(where, one.patient, one.mesh) for where, one in reports.items()]
    refused = {name: why for name in columns if (why := asked.refused(name, cells))}
    return [name for name in columns if name not in refused], [*notes, *refused.values()]


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadSample(f"more than {MAX_BYTES:,} bytes, which no report has; remove it from the folder")
        return path.read_bytes()
    except OSError as error:
        raise BadSample(f"it cannot be read ({error.strerror})") from error


def _image_files(folder: Path) -> dict[str, Path]:
    """Image files by the name that parentImage gives them."""
    files = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.is_symlink() and p.is_file()
    )
    return {normal_name(path.stem): path for path in reversed(files)}


def _add_images(
    found: Source,
    report: Report,
    where: str,
    files: dict[str, Path],
    caption: str,
    labels: dict[str, str],
) -> None:
    for name in dict.fromkeys(report.images):
        if name in files:
            at, image = f"{where}: {files[name].name}", files[name]
            found.records.append(_record(report, f"{report.patient}/{name}", at, image, caption, labels))
        else:
            found.problems.append(f"{where}: no {name}.png or .jpg in the image folder; add it")


def _record(
    report: Report, name: str, where: str, image: Path | None, caption: str, labels: dict[str, str]
) -> Record:
    mark = stamp(image.stat().st_size if image else 0, caption, labels)
    return Record(name, report.patient, where, mark, partial(_read, image, caption, labels))


def _read(image: Path | None, caption: str, labels: dict[str, str]) -> Content:
    return Content(open_image(image) if image else None, caption, labels)
