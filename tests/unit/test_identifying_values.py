"""Values that look as if they told who a patient is, and those of classes and measures, which do not."""

from __future__ import annotations

import time

import pytest

from medsd_ray.data.identifying_values import identifying_value
from medsd_ray.data.labels import as_label

DATES = (
    "1950-03-12|12.03.1950|3/12/50|1950/03|03/1950|1950|19500312|12 Mar 1950|12-MAR-1950|March 3, 1950|"
    "3. März 1950|2020-01-02T10:11:12|20200102101112.123456|12:30:45"
)
NUMBERS = "4711123|12345|123-45-6789|MRN4711|MRN 4711|P0001|ACC-123|4711A|1.2.840.10008.1|+49 170 1234567"
NAMES = "DOE^JANE|Doe, Jane|Jane Doe|SMITH JOHN|anna|Dr. House|Herr Maier|Müller|Jean-Paul Martin"
CLASSES = (
    "Effusion|No Finding|Pleural Effusion|Lung Opacity|Pneumonia, viral|Infiltration|Nodule|PA|AP|F|M|left|"
    "T1|T2-FLAIR|BI-RADS 4|COVID-19|C50.9|Grade 3|I-II|axial|none|hannover|ge 3T|DX|benign|Mass, left|t1_se"
)
MEASURES = "0|3|45|90|045Y|1.5|0.123456789|1e-5|<10|10-15|-3"


@pytest.mark.parametrize(("values", "sign"), [(DATES, "a date"), (NUMBERS, ""), (NAMES, "name")])
def test_values_that_identify(values: str, sign: str):
    for value in values.split("|"):
        assert sign in (identifying_value(value) or "nothing"), value
        assert identifying_value(value), value


def test_classes_and_measures_do_not():
    assert {v: identifying_value(v) for v in f"{CLASSES}|{MEASURES}".split("|") if identifying_value(v)} == {}


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("age", "45", "45"), ("age", "90", "90"), ("age", "95", "90"), ("Age", "101", "90"),
        ("age", "91.5", "90"), ("PatientAge", "095Y", "90"), ("patient_age", "92 years", "90"),
        ("age", "089Y", "089Y"), ("age", "100 days", "100 days"), ("stage", "95", "95"), ("age", "", ""),
    ],
)  # fmt: skip
def test_ages_are_capped(name: str, value: str, shown: str):
    assert as_label(name, value) == shown


@pytest.mark.parametrize("unit", ["a", "1", "1 ", "a-", "1.", "a1", "jan ", "ab^", "1 jan"])
def test_a_long_value_costs_no_more_than_its_length(unit: str):
    start = time.monotonic()
    identifying_value((unit * 40_000)[:40_000])
    assert time.monotonic() - start < 0.5
