"""MIMIC-CXR's reports are cut into the sections into which the data set's own tools cut them."""

from __future__ import annotations

import time

import pytest

from medsd_ray.data.sources.report_sections import cut

HEAD = "                                 FINAL REPORT\n"


def report(*sections: str) -> str:
    return HEAD + "".join(f" {section}\n \n" for section in sections)


def test_impression_and_findings():
    text = report(
        "EXAMINATION:  CHEST (PA AND LAT)",
        "INDICATION:  ___F with cough",
        "FINDINGS: \n \n Heart size is\n normal.  No effusion.",
        "IMPRESSION: \n \n No acute disease.",
    )
    assert cut(text) == {"findings": "Heart size is normal. No effusion.", "impression": "No acute disease."}
    assert cut(text.replace("\n", "\r\n")) == cut(text)


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("CONCLUSION", "impression"),
        ("FINDINGS AND IMPRESSION", "impression"),
        ("FINDINGS/IMPRESSION", "impression"),
        ("IMPRESSOIN", "impression"),
        ("MPRESSION", "impression"),
        ("NDICATION", "impression"),
        ("FINDING", "findings"),
        ("FINIDNGS", "findings"),
        ("REFERENCE FINDINGS", "findings"),
        ("CHEST, TWO VIEWS", "findings"),
        ("PORTABLE AP CHEST RADIOGRAPH", "findings"),
        ("PA AND LATERAL VIEWS", "findings"),
        ("RIBS", "findings"),
    ],
)
def test_a_section_has_many_spellings(heading: str, section: str):
    assert cut(report("INDICATION: Cough.", f"{heading}: Clear.")) == {section: "Clear."}


@pytest.mark.parametrize(
    "heading",
    ["HISTORY", "COMPARISON", "COMPARRISON", "IDICATION", "CHEST COMPARISON", "TECHNIQUE", "WET READ"],
)
def test_other_sections_are_not_the_report(heading: str):
    assert cut(report("IMPRESSION: Clear.", f"{heading}: Something.")) == {"impression": "Clear."}


def test_an_empty_section_is_none_and_the_last_of_a_name_counts():
    text = report(
        "CHEST, PA LATERAL:", "INDICATION: Cough.", "FINDINGS: One.", "FINDINGS: Two.", "IMPRESSION: "
    )
    assert cut(text) == {"findings": "Two."}


def test_without_sections_the_last_paragraphs_are_taken():
    text = HEAD + " AP CHEST ON ___\n \n COMPARISON:  ___.\n \n Small left effusion.\n \n No pneumothorax.\n"
    assert cut(text) == {"last_paragraph": "Small left effusion. No pneumothorax."}
    assert cut(HEAD + " Frontal view.\n \n Clear lungs.\n") == {"last_paragraph": "Clear lungs."}


@pytest.mark.parametrize("text", ["", "\n", HEAD, HEAD + " ADDENDUM:  \n", HEAD + " COMPARISON: None.\n"])
def test_a_report_that_says_nothing(text: str):
    assert cut(text) == {}


def test_a_heading_right_below_another_one_is_its_text():
    assert cut(HEAD + " TECHNIQUE: Portable.\n IMPRESSION: Clear.\n") == {"impression": "Clear."}
    assert cut(HEAD + " TECHNIQUE:\n IMPRESSION: Clear.\n") == {}


def test_studies_that_the_tools_know():
    text = report("INDICATION: Cough.", "RECOMMENDATION(S): Clear lungs.")
    assert cut(text, "59999999") == {}
    assert cut(text, "50913680") == {"findings": "Clear lungs."}
    assert cut(report("IMPRESSION: Clear."), "58235663") == {}
    assert cut("x" * 201 + " Clear \n lungs." + " " * 200, "50525523") == {"findings": "Clear lungs."}


@pytest.mark.parametrize("unit", ["\n A", "\n A:", "\n IMPRESSION: ", "A ", "\n \n", "\n " + "A" * 50])
def test_a_long_text_costs_no_more_than_its_length(unit: str):
    start = time.monotonic()
    cut((unit * 200_000)[:200_000])
    assert time.monotonic() - start < 2
