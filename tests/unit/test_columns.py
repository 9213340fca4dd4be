"""Tables of any name and form: which columns mean what, captions made of them, and who the patient is."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from medsd_ray.data.prepare import prepare
from medsd_ray.data.pseudonyms import KEY_VARIABLE
from medsd_ray.data.sources.captions import CaptionTemplate
from medsd_ray.data.sources.folder import scan
from medsd_ray.data.sources.kinds import KINDS, OPTIONS, open_source
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import Source
from medsd_ray.errors import InputError

Cells = list[dict[str, Any]]
PEOPLE: Cells = [
    {"Path": f"view/patient{i // 2:02d}/{i}.png", "Sex": "FM"[i % 2], "Age": 40 + i, "Words": f"Text {i}."}
    for i in range(12)
]
ASKED = {"image_column": "Path", "caption_column": "Words", "patient_regex": r"(patient\d+)/"}


def drawn(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(folder / name)


def written(path: Path, cells: Cells) -> Path:
    """A table in the form that its name says."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(cells), path)
        return path
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        writer = csv.writer(file, delimiter="\t" if ".tsv" in path.name.lower() else ",")
        writer.writerows([list(cells[0]), *(row.values() for row in cells)])
    return path


@pytest.fixture
def people(tmp_path: Path) -> Path:
    drawn(tmp_path, [row["Path"] for row in PEOPLE])
    return written(tmp_path / "people.csv", PEOPLE)


def found(path: Path, **asked: Any) -> Source:
    return scan(SourceRequest(str(path), **{**ASKED, **asked}))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "T.TSV", "t.parquet"])
def test_tables_of_any_name_and_form_say_the_same(tmp_path: Path, people: Path, name: str):
    source = found(written(tmp_path / name, PEOPLE))
    assert source.problems == [] and source.notes == []
    for record, row in zip(source.records, PEOPLE, strict=True):
        content = record.read()
        assert (record.name, record.patient) == (row["Path"], row["Path"].split("/")[1])
        assert (content.caption, dict(content.labels)) == (
            row["Words"],
            {"Sex": row["Sex"], "Age": str(row["Age"])},
        )
    unit = "row 1" if name == "t.parquet" else "line 2"
    assert source.records[0].where == f"{name} {unit}: view/patient00/0.png"


def test_images_lie_in_a_folder_of_their_own(tmp_path: Path):
    drawn(tmp_path / "images", [row["Path"] for row in PEOPLE])
    table = written(tmp_path / "people.csv", PEOPLE)
    assert len(found(table, images=str(tmp_path / "images")).records) == 12
    assert len(found(table).problems) == 12
    with pytest.raises(InputError, match=r"no metadata\.csv here; name its table as SOURCE, .*people\.csv"):
        found(tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(InputError, match="not a table; name a folder, or a file that ends in"):
        found(tmp_path / "notes.txt")


def test_values_of_parquet_are_those_of_a_csv(tmp_path: Path):
    drawn(tmp_path, ["0.png", "1.png"])
    cells = [
        {
            "image": "0.png",
            "report": "A",
            "patient_id": 7,
            "age": 45.0,
            "kind": None,
            "label": True,
            "parts": [1],
        },
        {
            "image": "1.png",
            "report": "B",
            "patient_id": 8,
            "age": None,
            "kind": "x",
            "label": False,
            "parts": [2],
        },
    ]
    source = scan(SourceRequest(str(written(tmp_path / "t.parquet", cells))))
    assert source.notes == ["t.parquet: columns left out, since they hold no plain values: parts"]
    assert [(r.patient, dict(r.read().labels)) for r in source.records] == [
        ("7", {"age": "45", "label": "True"}),
        ("8", {"kind": "x", "label": "False"}),
    ]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="not a Parquet table"):
        scan(SourceRequest(str(tmp_path / "broken.parquet")))
    (tmp_path / "broken.csv.gz").write_bytes(gzip.compress(b"image,report\n" * 99)[:-20])
    with pytest.raises(InputError, match="not a CSV table"):
        scan(SourceRequest(str(tmp_path / "broken.csv.gz")))


def test_all_columns_that_are_missing_are_named_at_once_with_near_ones(people: Path):
    with pytest.raises(InputError) as caught:
        scan(SourceRequest(str(people), label_columns=("sex ", "site")))
    assert str(caught.value) == (
        f"{people}: no columns 'image', 'report', 'patient_id', 'sex ', 'site' among Path, Sex, Age, Words; "
        "--image-column Path; --caption-column COLUMN or --caption TEMPLATE, such as '{view} chest X-ray', "
        "for the caption; --patient-column COLUMN for the patient, or --patient-regex REGEX to take it from "
        "the image's path, or, where each image is of another patient, --patient-column image --yes-split; "
        "--label-column Sex; --label-column COLUMN"
    )


@pytest.mark.parametrize(
    ("values", "caption", "left_out"),
    [
        (("95", "female", "PA", "No  change. "), "90 year old female. PA chest X-ray. No change.", 0),
        (("", "female", "PA", "Clear"), "PA chest X-ray. Clear", 1),
        (("5", "male", " ", "Clear."), "5 year old male. Clear.", 1),
        (("", "", "", ""), "", 3),
    ],
)
def test_captions_of_a_template(values: tuple[str, ...], caption: str, left_out: int):
    template = CaptionTemplate.parse("{age} year old {sex}. {view} chest X-ray. {impression}")
    said, without = template.fill(dict(zip(template.fields, values, strict=True)))
    assert (said, len(without)) == (caption, left_out)
    assert template.fields == ["age", "sex", "view", "impression"]


def test_a_full_stop_of_a_value_and_one_of_the_template_are_one():
    template = CaptionTemplate.parse("It shows {what}. The end!")
    assert template.fill({"what": "a large heart."})[0] == "It shows a large heart. The end!"


def test_captions_are_made_of_columns_and_sentences_without_are_counted(tmp_path: Path, people: Path):
    cells = [{**row, "Sex": row["Sex"] if i else ""} for i, row in enumerate(PEOPLE)]
    cells[1] |= {"Sex": "", "Words": ""}
    source = found(written(people, cells), caption_column=None, caption="Of a {Age} year old {Sex}. {Words}")
    assert source.records[0].read().caption == "Text 0."
    assert source.records[1].read().caption == "Of a 42 year old F. Text 2."
    assert source.problems == [
        "people.csv line 3: view/patient00/1.png: each sentence of its caption has an empty field; add one "
        "without, or drop the row"
    ]
    assert "1 captions go without 'Of a {Age} year old {Sex}.': a field of it is empty" in source.notes


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"caption": "{sex} patient"}, r"no field \{sex\} among Sex, Age, Words; do you mean \{Sex\}\?"),
        ({"caption": "{Path}"}, r"\{Path\} names a file or the patient"),
        ({"caption": " "}, "--caption is empty"),
        ({"caption": "{Sex"}, "has a brace without its other"),
        ({"caption": "{Sex}", "caption_column": "Words"}, "--caption and --caption-column both"),
        ({"patient_column": "Sex", "patient_regex": "x"}, "--patient-regex and --patient-column both"),
        ({"patient_regex": "("}, "--patient-regex '.': not a regular expression"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(people: Path, asked: dict[str, Any], words: str):
    more = {"caption_column": None} if "caption" in asked and "caption_column" not in asked else {}
    with pytest.raises(InputError, match=words) as caught:
        found(people, **{**more, **asked})
    assert "\n" not in str(caught.value)


def test_a_path_without_a_patient_is_a_bad_sample(people: Path):
    source = found(people, patient_regex=r"patient(0[01])")
    assert [record.patient for record in source.records] == ["00", "00", "01", "01"]
    assert len(source.problems) == 8 and "--patient-regex does not find a patient" in source.problems[0]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("Age", "numbers such as ages and measures have"),
        ("Words", "12 values in 12 rows, as if nearly each image were of another patient"),
        ("Path", "12 values in 12 rows"),
    ],
)
def test_a_column_that_is_no_patient_is_refused_unless_insisted_on(people: Path, column: str, words: str):
    asked = {"patient_regex": None, "patient_column": column, "caption_column": "Sex"}
    with pytest.raises(InputError, match=f"--patient-column '{column}': {words}.*--yes-split"):
        found(people, **asked)
    assert len({r.patient for r in found(people, **asked, yes_split=True).records}) == 12


def test_classes_are_no_patients_and_a_regex_is_no_better(people: Path):
    cells = [{**row, "Path": row["Path"] if i < 12 else f"{i}.png"} for i, row in enumerate(PEOPLE * 2)]
    drawn(people.parent, [f"{i}.png" for i in range(12, 24)])
    with pytest.raises(InputError, match="'Sex': 2 values in 24 rows, as classes have"):
        found(written(people, cells), patient_regex=None, patient_column="Sex")
    with pytest.raises(InputError, match="--patient-regex: 24 values in 24 rows"):
        found(people, patient_regex=".+")


@pytest.mark.parametrize(
    "name", ["patient_id", "Patient ID", "PatientID", "subject", "group_id", "deid_patient_id"]
)
def test_a_column_that_is_named_for_patients_is_believed(people: Path, name: str):
    cells = [{**row, name: f"P{i}"} for i, row in enumerate(PEOPLE)]
    assert len(found(written(people, cells), patient_regex=None, patient_column=name).records) == 12


def test_what_was_asked_stands_in_the_index_and_a_change_of_it_is_refused(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(KEY_VARIABLE, "a key for this test")
    out = str(tmp_path / "out")
    asked = {**ASKED, "caption_column": None, "size": 8}
    prepare(SourceRequest(str(people), caption="{Age} years.", **asked), out)
    root = json.loads((tmp_path / "out" / "index.json").read_text())
    for part in ("--image-column Path", "--caption '{Age} years.'", r"--patient-regex '(patient\d+)/'"):
        assert part in root["command"]
    with pytest.raises(InputError, match="differ in caption"):
        prepare(SourceRequest(str(people), caption="{Age}.", **asked), out)
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"patient0" not in everything


def test_each_kind_takes_its_own_options_alone(tmp_path: Path):
    for kind in KINDS:
        for field, option in OPTIONS.items():
            value = {"yes_split": True, "frames": "all"}.get(field, ("x",) if field.endswith("s") else "x")
            if field not in KINDS[kind].takes:
                with pytest.raises(InputError, match=f"^{option} is for .*; --kind {kind} does not take it"):
                    open_source(SourceRequest("1", kind, **{field: value}))
    with pytest.raises(InputError, match="--kind 'x': choose folder, dicom, openi"):
        open_source(SourceRequest("1", "x"))


def test_quote_that_swallows_a_row_of_a_tsv_is_refused(tmp_path: Path, people: Path):
    table = tmp_path / "t.tsv"
    one, two = (row["Path"] for row in PEOPLE[:2])
    table.write_text(f'Path\tWords\tSex\n{one}\t"Lungs\tF\n{two}\tclear"\tM\n')
    with pytest.raises(InputError, match=r"t.tsv line 2: a quote .*line 3, which names"):
        found(table)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"caption_column": "Path"}, "--caption-column Path: it is the --image-column"),
        ({"domain_column": "Path"}, "--domain-column Path: it is the --image-column"),
        ({"mask_columns": ("Path",)}, "--mask-column Path: it is the --image-column"),
        ({"mask_columns": ("Words",)}, "--caption-column Words: it is the --mask-column"),
        ({"mask_columns": ("Sex",), "caption": "{Sex}", "caption_column": None}, "{Sex} names a file"),
        (
            {"patient_regex": None, "patient_column": "Sex", "caption_column": "Sex"},
            "--caption-column Sex: it is the --patient-column",
        ),
        (
            {"patient_regex": None, "patient_column": "Sex", "domain_column": "Sex"},
            "--domain-column Sex: it is the --patient-column",
        ),
        ({"label_columns": ("Path",)}, "^--label-column Path: it is the --image-column already"),
        ({"label_columns": ("Sex",), "mask_columns": ("Sex",)}, "^--label-column Sex: it is the --mask-col"),
        ({"yes_labels": ("Sex",), "mask_columns": ("Sex",)}, "^--yes-label Sex: it is the --mask-column"),
    ],
)
def test_columns_that_name_files_or_patients_are_nothing_else(people: Path, asked: dict, said: str):
    with pytest.raises(InputError, match=said):
        found(people, **asked)


@pytest.mark.parametrize("suffix", ["png", "JPG", "dcm", "nii.gz", "tiff"])
def test_names_of_files_are_no_labels_domains_or_captions(tmp_path: Path, people: Path, suffix: str):
    """Among few patients nothing but its look tells them from classes."""
    cells = [{**row, "Mask": f"masks/doe {i}.{suffix}"} for i, row in enumerate(PEOPLE[:4])]
    path = written(tmp_path / "t.csv", cells)
    said = "t.csv line 2: its value looks like a file's name: "
    with pytest.raises(InputError, match=said + "column 'Mask' is no label.*insist on it"):
        found(path, label_columns=("Mask",))
    with pytest.raises(InputError, match=said + "--domain-column 'Mask' would stand in the shards in clear"):
        found(path, domain_column="Mask")
    for asked in ({"caption_column": "Mask"}, {"caption_column": None, "caption": "A {Mask}."}):
        source = found(path, **asked)
        assert source.records == [] and source.problems[0] == (
            "t.csv line 2: view/patient00/0.png: the Mask is a file's name, no caption; name another column "
            "for captions"
        )
    assert len(found(path).records) == 4


def test_columns_of_parquet_that_hold_no_values_are_said(tmp_path: Path, people: Path):
    cells = [{**row, "Mask": b"PNG", "Sizes": [1, 2]} for row in PEOPLE]
    path = written(tmp_path / "t.parquet", cells)
    for asked, said in (
        ({"mask_columns": ("Mask",)}, "--mask-column Mask: the table holds the masks themselves, or lists"),
        (
            {"label_columns": ("Sizes",)},
            "--label-column Sizes: it holds lists, records or bytes; write texts",
        ),
        (
            {"image_column": "Mask"},
            "--image-column Mask: the table holds the images.*with --kind hf, or name",
        ),
    ):
        with pytest.raises(InputError, match=f"^{path}: {said}"):
            found(path, **asked)
    assert "t.parquet: columns left out, since they hold no plain values: Mask, Sizes" in found(path).notes


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path: Path, people: Path):
    columns = pyarrow.Table.from_pylist(PEOPLE)
    for name in ("Words", "Words "):
        twice = columns.append_column(name, columns.column("Sex"))
        pyarrow.parquet.write_table(twice, tmp_path / "t.parquet")
        with pytest.raises(InputError, match=r"t\.parquet: two columns named 'Words'; rename one$"):
            found(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "sign", "mend"),
    [("t.csv", ";", "commas"), ("t.csv", "\t", "name it .tsv"), ("t.tsv", ",", "tabs")],
)
def test_table_with_other_signs_between_columns(tmp_path: Path, name: str, sign: str, mend: str):
    (tmp_path / name).write_text(f"Path{sign}Words\na.png{sign}text\n")
    with pytest.raises(InputError, match=f"one column alone, .*{mend}"):
        found(tmp_path / name)


def test_cells_that_pandas_left_empty_say_nothing(tmp_path: Path, people: Path):
    said = {
        0: {"Words": "nan"},
        1: {"Words": "None"},
        2: {"Sex": "NaN"},
        3: {"who": "nan"},
        4: {"who": "NULL"},
    }
    cells = [{**row, "who": f"p{i}"} | said.get(i, {}) for i, row in enumerate(PEOPLE)]
    source = found(
        written(tmp_path / "t.csv", cells), patient_regex=None, patient_column="who", yes_split=True
    )
    assert len(source.problems) == 4 and all("is empty" in line for line in source.problems)
    assert set(source.records[0].read().labels) == {"Age"}


def test_parquet_with_times_that_python_does_not_have(tmp_path: Path, people: Path):
    table = pyarrow.Table.from_pylist(PEOPLE)
    far = pyarrow.array([10**15 + 1] * len(PEOPLE), pyarrow.timestamp("ms"))
    near = pyarrow.array([1] * len(PEOPLE), pyarrow.timestamp("ns"))
    pyarrow.parquet.write_table(
        table.append_column("far", far).append_column("near", near), tmp_path / "t.parquet"
    )
    assert len(found(tmp_path / "t.parquet").records) == len(PEOPLE)
    text = pyarrow.Array.from_buffers(
        pyarrow.string(), 1, [None, *map(pyarrow.py_buffer, (b"\0\0\0\0\2\0\0\0", b"\xff\xfe"))]
    )
    pyarrow.parquet.write_table(pyarrow.table({"Path": text}), tmp_path / "bad.parquet")
    with pytest.raises(InputError, match="not a Parquet table"):
        found(tmp_path / "bad.parquet")


def test_folders_that_are_none_name_their_option(people: Path):
    with pytest.raises(InputError, match="no such folder; mend --images"):
        found(people, images=str(people.parent / "nowhere"))
    with pytest.raises(InputError, match="a file, where a folder is read; give the folder as --images"):
        found(people, images=str(people))


@pytest.mark.parametrize("twins", [("7", "7.0"), ("007", "7"), ("P7", "p7")])
def test_a_patient_who_is_written_in_two_ways_is_refused(
    tmp_path: Path, people: Path, twins: tuple[str, str]
):
    who = [*twins, *(str(i) for i in range(10, 20))]
    cells = [{**row, "patient_id": one} for row, one in zip(PEOPLE, who, strict=True)]
    asked = {"patient_regex": None, "patient_column": "patient_id"}
    table = written(tmp_path / "t.csv", cells)
    with pytest.raises(
        InputError, match=r"'patient_id': 1 patients differ from others in capitals, .*--yes-split"
    ):
        found(table, **asked)
    assert len(found(table, **asked, yes_split=True).records) == 12
