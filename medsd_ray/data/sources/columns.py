"""What the columns of a table mean, and which of those that are asked for are not there."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from medsd_ray.data.labels import LabelColumns
from medsd_ray.data.sources.captions import CaptionTemplate
from medsd_ray.data.sources.near_names import near_name
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.table import Table
from medsd_ray.errors import InputError

_OTHER_WORDS = {
    "--image-column": ("path", "image_path", "file", "file_name", "filename", "image_id", "image_index"),
    "--caption-column": ("caption", "text", "impression", "findings", "description", "prompt"),
    "--patient-column": ("patient", "subject_id", "subject", "mrn", "case_id", "group_id", "person_id"),
}
"""Option -> other names that its column often has."""

_UNREAD_MEND = {
    "--mask-column": "the table holds the masks themselves, or lists; write a folder of images with a PNG "
    "file for each mask, and its name in the column",
    "--image-column": "the table holds the images themselves, or lists; read a folder of such Parquet files "
    "with --kind hf, or name image files in the column",
}
_PLAIN_MEND = "it holds lists, records or bytes; write texts or numbers into it, or name another column"


@dataclass(frozen=True)
class Columns:
    """What the columns of a table mean. The defaults are those of a metadata.csv; a layout has its own."""

    image: str = "image"
    """Names the image of a row."""
    caption: str | CaptionTemplate = "report"
    """The column with the caption, or how captions are made of columns."""
    patient: str | None = "patient_id"
    """Names the patient; None where `patient_regex` finds it."""
    patient_regex: re.Pattern[str] | None = None
    """Takes the patient from the image's name: its first group, else all that it matches."""
    masks: tuple[str, ...] = ()
    """Each names a mask of the row's image, or is empty."""
    domain: str | None = None
    """Names where the image comes from."""
    yes_split: bool = False
    """Whether patients are believed in that do not look like patients."""
    split: str | None = None
    """The column with the split that the set was published in; None where there is none."""
    labels: LabelColumns = field(default_factory=LabelColumns)
    """What is asked for as a label, beside the harmless columns."""

    def as_asked(self, request: SourceRequest) -> Columns:
        """The same, with what the request names in the place of these. Raises InputError where it names the
        same thing twice.
        """
        if request.caption is not None and request.caption_column is not None:
            raise InputError("--caption and --caption-column both say what the caption is; give one of them")
        if request.patient_regex is not None and request.patient_column is not None:
            raise InputError(
                "--patient-regex and --patient-column both say who the patient is; give one of them"
            )
        columns = replace(
            self,
            image=request.image_column or self.image,
            caption=request.caption_column or self.caption,
            yes_split=request.yes_split,
            masks=(*self.masks, *request.mask_columns),
            domain=request.domain_column or self.domain,
            labels=LabelColumns(
                (*self.labels.asked, *request.label_columns), (*self.labels.insisted, *request.yes_labels)
            ),
        )
        if request.caption is not None:
            columns = replace(columns, caption=CaptionTemplate.parse(request.caption))
        if request.patient_column is not None:
            columns = replace(columns, patient=request.patient_column, patient_regex=None)
        if request.patient_regex is not None:
            columns = replace(columns, patient=None, patient_regex=_regex(request.patient_regex))
        return columns

    def check(self, table: Table, fields: Collection[str]) -> None:
        """Raises InputError, in one line for all, where columns are not there: those that name files among
        the table's, others among these and the `fields` of the files themselves.
        """
        where, names = table.where, [*dict.fromkeys([*table.columns, *fields])]
        wanted = [("--image-column", self.image), ("--patient-column", self.patient)]
        if isinstance(self.caption, str):
            wanted.insert(1, ("--caption-column", self.caption))
        wanted += [("--label-column", name) for name in self.labels.asked]
        wanted += [("--yes-label", name) for name in self.labels.insisted]
        wanted += [("--mask-column", name) for name in self.masks]
        wanted += [("--domain-column", self.domain)]
        of_table = ("--image-column", "--mask-column")
        absent = [
            (option, name)
            for option, name in wanted
            if name is not None and name not in (table.columns if option in of_table else names)
        ]
        for option, name in absent:
            if name in table.unread:
                raise InputError(
                    f"{where}: {option} {_quoted(name)}: {_UNREAD_MEND.get(option, _PLAIN_MEND)}"
                )
        if absent:
            said = ", ".join(dict.fromkeys(repr(name) for _, name in absent))
            mends = "; ".join(_mend(option, name, names, self.image) for option, name in absent)
            there = ", ".join(names) or "none"
            raise InputError(f"{where}: no column{'s' * (len(absent) > 1)} {said} among {there}; {mends}")
        self._check_files_and_patients(names, where)

    def _check_files_and_patients(self, names: Collection[str], where: str) -> None:
        """Raises InputError where a column that names files or patients is to be in the shards in clear, or
        to be a mask.
        """
        meaning = {"--patient-column": self.patient, "--image-column": self.image}
        of_column = {name: option for option, name in meaning.items() if name is not None}
        if isinstance(self.caption, CaptionTemplate):
            self.caption.check(names, {*of_column, *self.masks}, where)
        used = [("--mask-column", name) for name in self.masks]
        of_column |= {name: "--mask-column" for name in self.masks if name not in of_column}
        used += [("--label-column", name) for name in self.labels.asked]
        used += [("--yes-label", name) for name in self.labels.insisted]
        used += [("--caption-column", self.caption), ("--domain-column", self.domain)]
        for option, name in used:
            if isinstance(name, str) and (other := of_column.get(name, option)) != option:
                raise InputError(f"{option} {_quoted(name)}: it is the {other} already; name another one")

    def patient_in(self, name: str) -> str | None:
        """The patient that an image's name tells, by `patient_regex`; None where it does not match."""
        match = self.patient_regex.search(name) if self.patient_regex else None
        return match and (match[1] if match.re.groups else match[0])


def _regex(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(
            f"--patient-regex {text[:60]!r}: not a regular expression ({error}); mend it"
        ) from error


def _mend(option: str, name: str, names: Collection[str], image: str) -> str:
    """How to name the column that is not there; `image` is the images' column."""
    near = near_name(name, names, _OTHER_WORDS.get(option, ()))
    mend = f"{option} {_quoted(near)}" if near else f"{option} COLUMN"
    if option == "--caption-column":
        return f"{mend} or --caption TEMPLATE, such as '{{view}} chest X-ray', for the caption"
    if option == "--patient-column":
        return (
            f"{mend} for the patient, or --patient-regex REGEX to take it from the image's path, or, where "
            f"each image is of another patient, --patient-column {_quoted(image)} --yes-split"
        )
    return mend


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w./-]+", name) else f"'{name}'"
