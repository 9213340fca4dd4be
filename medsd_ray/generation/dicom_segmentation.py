"""Masks of DICOM images as DICOM SEG objects, which a viewer lays over their image (PS3.3 A.51).

An object has new identifiers of its own and a new series, and what puts it beside its image: the study, the
frame of reference, the reference to the image, and of the patient what these tags say. All else of the
image's header is left out.
"""

from __future__ import annotations

import io
import warnings
from importlib.metadata import version
from pathlib import Path

import highdicom
import numpy as np
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from medsd_ray.data.sources.dicom_files import read_header, text
from medsd_ray.data.sources.source import BadSample
from medsd_ray.models.networks.task_run import TaskRun

NEEDED = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]
"""Without these nothing can refer to an image."""
MAY_BE_EMPTY = [
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
]  # fmt: skip
"""What viewers and archives sort by; of type 2 in every study."""
GEOMETRY = [
    "Rows", "Columns", "FrameOfReferenceUID", "PositionReferenceIndicator", "ImageOrientationPatient",
    "ImagePositionPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
]  # fmt: skip
SCHEME = "99MEDSD"
"""Of the codes of classes, which medsd knows by name alone (PS3.16 8.2: 99 is for private schemes)."""
NOTICE = "For research only, not for diagnosis."


class SegmentationWriter:
    """Makes the SEG objects of one run; those of the images of a series are in one new series."""

    def __init__(self, run: TaskRun):
        self.run, self.version = run, version("medsd")
        self._series: dict[str, tuple[str, int]] = {}

    def encode(self, path: Path, mask: np.ndarray) -> bytes:
        """A DICOM file of a mask.

        Args:
            path: The DICOM image that it is over.
            mask: (height, width) uint8, 0 the background, 1, 2, ... the classes.

        Raises:
            BadSample: The image's header does not say what a segmentation needs.
        """
        source = read_header(path, [*NEEDED, *MAY_BE_EMPTY, *GEOMETRY, "Modality"])
        if absent := [name for name in NEEDED if not text(source, name)]:
            raise BadSample(f"has no {absent[0]}, so that no segmentation can refer to it; use png")
        for name in MAY_BE_EMPTY:
            if name not in source:
                setattr(source, name, "")
        series = text(source, "SeriesInstanceUID")
        uid, before = self._series.get(series, (generate_uid(prefix=None), 0))
        try:
            with warnings.catch_warnings():  # which quote the file's values
                warnings.simplefilter("ignore")
                found = io.BytesIO()
                self._segmentation(source, mask, uid, before + 1).save_as(found)
        except Exception as error:  # highdicom raises many kinds, and its texts may quote the file's
            raise BadSample(
                "its header does not say what a segmentation needs (such as, of a CT or MR image, "
                "FrameOfReferenceUID and the slice's place); use png"
            ) from error
        self._series[series] = (uid, before + 1)
        return found.getvalue()

    def _segmentation(self, source: Dataset, mask: np.ndarray, series: str, number: int) -> Segmentation:
        return Segmentation(
            [source],
            mask,
            SegmentationTypeValues.BINARY,
            [self._segment(place, name) for place, name in enumerate(self.run.classes, 1)],
            series_instance_uid=series,
            series_number=1,
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=number,
            manufacturer="medsd",
            manufacturer_model_name="medsd",
            software_versions=self.version,
            device_serial_number=self.run.fingerprint,
            content_label="MEDSD",
            content_description=NOTICE,
            series_description="medsd, for research only",
            omit_empty_frames=False,  # a class that is not there has a frame that says so
        )

    def _segment(self, number: int, name: str) -> SegmentDescription:
        algorithm = highdicom.AlgorithmIdentificationSequence(
            "medsd", codes.DCM.ArtificialIntelligence, self.version
        )
        return SegmentDescription(
            number,
            name[:64],
            codes.SCT.SpatialAndRelationalConcept,
            CodedConcept(str(number), SCHEME, name[:64]),
            SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm,
        )
