"""What a user asks `prepare` to read, as one object that every kind of source takes."""

from __future__ import annotations

from dataclasses import dataclass

from medsd_ray.data.labels import LabelColumns
from medsd_ray.data.sources.findings import Uncertain
from medsd_ray.data.sources.frames import Frames


@dataclass(frozen=True)
class SourceRequest:
    """SOURCE, and what the options say of it. A kind refuses options that it does not take (`kinds.py`)."""

    source: str
    """A folder or a table; for phantoms, how many to draw."""
    kind: str = "folder"
    """One of `kinds.KINDS`."""
    size: int = 256
    """Height and width of the images in the shards, in pixels: phantoms are drawn in it."""
    seed: int = 0
    """Of drawn phantoms, and of the splits."""
    images: str | None = None
    """The folder of the images, where it is not SOURCE's own."""
    reports: str | None = None
    """The file or folder of a published set's reports, where they are not in SOURCE."""
    views: tuple[str, ...] = ()
    """The views that are taken of a published set, such as `PA`; all where it is empty."""
    uncertain: Uncertain | None = None
    """What becomes of a finding that its report is uncertain of; where it is None, it is omitted."""
    image_column: str | None = None
    """The column that names each row's image; where it is None, the kind's own."""
    caption_column: str | None = None
    """The column with each image's caption; where it is None, the kind's own."""
    caption: str | None = None
    """A template of the captions, such as `{view} chest X-ray. {impression}` (`captions.py`)."""
    patient_column: str | None = None
    """The column, or the keyword of a DICOM tag, that names the patient; where it is None, the kind's own."""
    patient_regex: str | None = None
    """A regular expression that takes the patient from the image's path: its first group, else all of it."""
    yes_split: bool = False
    """Whether patients are taken as they are told apart, even where they do not look like patients."""
    label_columns: tuple[str, ...] = ()
    """Columns that become labels beside the harmless ones (`data/labels.py`)."""
    yes_labels: tuple[str, ...] = ()
    """The same, whatever their values look like."""
    mask_columns: tuple[str, ...] = ()
    """Columns that name a mask of each row's image; the mask has the column's name."""
    boxes: str | None = None
    """A table of boxes that are drawn as masks (`masks.py`)."""
    domain_column: str | None = None
    """The column that names where an image comes from, such as a hospital."""
    frames: Frames | None = None
    """Which images to take of a file that holds several; where it is None, such a file cannot be used."""
    sites: tuple[str, ...] = ()
    """The sites whose scanners see drawn phantoms (`phantom_sites.py`); none where it is empty."""
    visits: int | None = None
    """How often each drawn phantom is seen, with another finding each time; once where it is None."""

    @property
    def labels(self) -> LabelColumns:
        """The columns that are asked for as labels."""
        return LabelColumns(self.label_columns, self.yes_labels)
