"""OpenI's reports: sections that may be empty, blanks of anonymisation, images that are joined by name."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsd_ray.data.free_text import signs_of_identity
from medsd_ray.data.shards import iter_samples, read_index
from medsd_ray.data.sources.openi import clean, parse, scan
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import InputError


def xml(
    uid: str = "CXR1", images: tuple[str, ...] = (), mesh: tuple[str, ...] = ("normal",), **sections: str
) -> str:
    texts = "".join(
        f'<AbstractText Label="{name.upper()}">{text}</AbstractText>' for name, text in sections.items()
    )
    majors = "".join(f"<major>{text}</major>" for text in mesh)
    parents = "".join(f'<parentImage id="{name}"><caption>PA</caption></parentImage>' for name in images)
    return (
        f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="{uid}"/><Abstract>{texts}</Abstract>'
        f"<MeSH>{majors}<automatic>not this</automatic></MeSH>{parents}</eCitation>"
    )


def test_sections_in_the_order_of_their_worth():
    report = parse(
        xml(
            indication="Cough", findings="Clear  lungs.", impression="No disease.", comparison="None."
        ).encode()
    )
    assert report.caption == "Impression: No disease. Findings: Clear lungs. Indication: Cough."
    assert (report.patient, report.mesh) == ("CXR1", "normal")


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"findings": "", "impression": "Clear."}, "Impression: Clear."),
        ({"findings": "Clear.", "impression": " XXXX. "}, "Findings: Clear."),
        ({"indication": "XXXX", "findings": "XXXX XXXX.", "impression": ""}, ""),
        ({}, ""),
    ],
)
def test_empty_sections_leave_no_trace(sections: dict[str, str], expected: str):
    assert parse(xml(**sections).encode()).caption == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Normal chest x-XXXX.", "Normal chest x-ray."),
        ("XXXX-year-old male, chest pain.", "male, chest pain."),
        ("XXXX year old with a XXXX.", "with a."),
        ("Heart XXXX, mediastinum and lung XXXX are normal.", "Heart, mediastinum and lung are normal."),
        ("XXXX, XXXX on the left", "on the left."),
        ("Clear lungs. XXXX. .", "Clear lungs."),
        ("Comparison XXXX, XXXX. No nodules", "Comparison. No nodules."),
        ("Seen at 4XXXX or XXXXPM on XXXX's film", "Seen at or on film."),
        ("Excluded from the XXXX-of-view", "Excluded from the."),
        ("T9-T10 and 1.9 x 1.8 cm", "T9-T10 and 1.9 x 1.8 cm."),
    ],
)
def test_blanks_are_cleaned_up(text: str, expected: str):
    assert clean(text) == expected


@pytest.mark.parametrize("unit", ["a", "a-", ". ", ",.", "X", "XXXX", "XXXX-", "1 ", "é", "mrn "])
def test_a_long_text_costs_no_more_than_its_length(unit: str):
    start = time.monotonic()
    text = (unit * 40_000)[:40_000]
    clean(text)
    signs_of_identity(text)
    assert time.monotonic() - start < 0.5


BOMB = '<!DOCTYPE e [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<eCitation><uId id='CXR1'/>", "not well-formed XML"),
        (b"", "not well-formed XML"),
        (b"<eCitation/>", "no uId"),
        (xml().replace("<eCitation>", BOMB + "<eCitation>").encode(), "document type"),
        (
            xml().replace("utf-8", "utf-16").replace("<eCitation>", BOMB + "<eCitation>").encode("utf-16"),
            "document type",
        ),
        (b'<!DOCTYPE e SYSTEM "file:///etc/passwd"><e/>', "document type"),
        (b'<?xml version="1.0" encoding="nonsense"?><e/>', "encoding|well-formed"),
    ],
)
def test_unreadable_and_dangerous_xml_is_refused(data: bytes, words: str):
    with pytest.raises(BadSample, match=words) as caught:
        parse(data)
    assert "\n" not in str(caught.value)


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "1.xml").write_text(
        xml("CXR1", ("CXR1_a", "CXR1_b"), ("Cardiomegaly/mild", "Aorta"), impression="Large heart.")
    )
    (folder / "2.xml").write_text(xml("CXR2", ("CXR2_a",), impression="Clear."))
    (folder / "3.xml").write_text(xml("CXR3", (), findings="Clear."))
    (folder / "4.xml").write_text(xml("CXR4", ("CXR4_a",), findings=""))
    (folder / "5.xml").write_text("<eCitation>")
    (folder / "6.xml").write_text(xml("CXR2", impression="Twice."))
    return folder


def test_text_alone(reports: Path):
    found = scan(SourceRequest(str(reports)))
    assert found.kind == "text"
    assert [record.patient for record in found.records] == ["CXR1", "CXR2", "CXR3"]
    content = found.records[0].read()
    assert (content.image, content.labels) == (None, {})
    assert found.kind == "text"
    content = scan(SourceRequest(str(reports), label_columns=("mesh",))).records[0].read()
    assert content.labels == {"mesh": "Cardiomegaly/mild; Aorta"}
    with pytest.raises(InputError, match="no column 'finding' that could be a label among mesh"):
        scan(SourceRequest(str(reports), label_columns=("finding",)))
    assert [problem.split(":")[0] for problem in found.problems] == ["5.xml", "6.xml"]
    assert found.notes[0] == "left out of the labels: mesh; ask for it with --label-column mesh"
    assert found.notes[1:] == ["1 reports are left out: all their sections are empty"]


def test_captions_of_a_template_are_made_of_sections(reports: Path):
    found = scan(SourceRequest(str(reports), caption="A chest X-ray. {impression}. MeSH: {mesh}."))
    assert [record.read().caption for record in found.records] == [
        "A chest X-ray. Large heart. MeSH: Cardiomegaly/mild; Aorta.",
        "A chest X-ray. Clear. MeSH: normal.",
        "A chest X-ray. MeSH: normal.",
        "A chest X-ray. MeSH: normal.",
    ]
    assert "2 captions go without '{impression}.': a field of it is empty" in found.notes
    with pytest.raises(InputError, match=r"no field \{Findings\} among .*; do you mean \{findings\}"):
        scan(SourceRequest(str(reports), caption="{Findings}"))


def test_one_sample_for_each_image(reports: Path, tmp_path: Path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("CXR1_a.png", "CXR1_b.jpg", "other.png"):
        Image.fromarray(np.full((16, 16), 90, np.uint8)).save(images / name)
    found = scan(SourceRequest(str(reports), images=str(images)))
    assert found.kind == "image"
    assert [(record.name, record.patient) for record in found.records] == [
        ("CXR1/CXR1_a", "CXR1"),
        ("CXR1/CXR1_b", "CXR1"),
    ]
    image = found.records[1].read().image
    assert image is not None and image.shape == (16, 16)
    assert "2.xml: no CXR2_a.png or .jpg in the image folder; add it" in found.problems
    assert "1 reports are left out: they name no image" in found.notes
    assert "1 images are left out: no report names them" in found.notes
    with pytest.raises(InputError, match="no such folder"):
        scan(SourceRequest(str(reports), images=str(tmp_path / "absent")))


def test_only_regular_files_below_the_folders_are_read(reports: Path, tmp_path: Path):
    images = tmp_path / "images"
    images.mkdir()
    os.mkfifo(reports / "pipe.xml")
    (reports / "zero.xml").symlink_to("/dev/zero")
    (reports / "circle.xml").symlink_to(reports / "circle.xml")
    (reports / "loop").symlink_to(reports)
    os.mkfifo(images / "CXR1_a.png")
    found = scan(SourceRequest(str(reports), images=str(images)))
    said = dict(problem.split(": ", 1) for problem in found.problems if ".xml: no " not in problem)
    assert "not a regular file" in said["pipe.xml"] and "leads out" in said["zero.xml"]
    assert "not the name of a file" in said["circle.xml"] and not found.records


def test_the_published_reports(test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from medsd_ray.data.prepare import prepare

    monkeypatch.setenv("MEDSD_PSEUDONYM_KEY", "a key for this test")
    prepare(SourceRequest(str(test_data / "iu-reports"), "openi", label_columns=("mesh",)), str(tmp_path))
    files = len(list((test_data / "iu-reports").glob("*.xml")))
    samples = [
        sample for split in ("train", "validation", "test") for sample in iter_samples(str(tmp_path), split)
    ]
    assert 0.98 * files <= len(samples) <= files
    assert read_index(str(tmp_path)).kind == "text"
    assert all("XXXX" not in sample.caption and sample.caption[-1] in ".?!" for sample in samples)
    assert sum(sample.labels.get("mesh") == "normal" for sample in samples) > 0.2 * len(samples)
