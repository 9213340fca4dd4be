"""DICOM files of every encoding: which are taken, which are refused, and that none takes the memory or the
command with it.
"""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicoms import EIGHT, RAMP, dicom, save
from PIL import Image
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_fragments, generate_frames
from pydicom.pixels import get_decoder, pixel_array

from medsd_ray.data.sources import decoder_process, dicom_files
from medsd_ray.data.sources.dicom import scan
from medsd_ray.data.sources.dicom_files import frame_count, read_frame, read_header
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample

# Of a file whose data set is not written as its transfer syntax says; pytest shows what medsd silences.
pytestmark = pytest.mark.filterwarnings("ignore:Expected explicit VR")


def test_colour_and_run_lengths(tmp_path: Path):
    rgb = np.stack([EIGHT, 255 - EIGHT, EIGHT // 2], -1).astype(np.uint8)
    data = dicom(rgb, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    np.testing.assert_array_equal(read_frame(save(data, tmp_path / "a.dcm")).image, rgb)
    packed, plain = dicom(), save(dicom(), tmp_path / "plain.dcm")
    packed.compress(uid.RLELossless)
    np.testing.assert_array_equal(
        read_frame(save(packed, tmp_path / "packed.dcm")).image, read_frame(plain).image
    )


# One of pydicom's own files for each encoding that hospitals export, and the same image uncompressed.
ENCODED = {
    "MR_small_jp2klossless.dcm": "MR_small.dcm",
    "MR_small_jpeg_ls_lossless.dcm": "MR_small.dcm",
    "MR_small_RLE.dcm": "MR_small.dcm",
    "MR_small_bigendian.dcm": "MR_small.dcm",
    "MR_small_implicit.dcm": "MR_small.dcm",
    "MR_small_padded.dcm": "MR_small.dcm",
}
ALONE = [
    "JPEG2000.dcm", "693_J2KI.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm",
    "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg.dcm", "SC_rgb_rle_16bit.dcm",
    "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_jls_lossy_line.dcm", "examples_palette.dcm",
    "examples_jpeg2k.dcm", "examples_ybr_color.dcm", "image_dfl.dcm", "liver_1frame.dcm", "rtdose_1frame.dcm",
]  # fmt: skip


def own(name: str) -> Path:
    """One of the files that pydicom's package holds: nothing is downloaded."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path)


@pytest.mark.parametrize("name", [*ENCODED, *ALONE])
def test_what_hospitals_export_is_read(name: str):
    header = read_header(own(name))
    frames = frame_count(header)
    image = read_frame(own(name), frames // 2).image
    assert image.dtype == np.uint8 and image.shape[:2] == (header.Rows, header.Columns)
    if name in ENCODED:
        np.testing.assert_array_equal(image, read_frame(own(ENCODED[name])).image)


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("JPEG2000.dcm", False),
        ("693_J2KI.dcm", False),
        ("MR_small_jp2klossless.dcm", True),
        ("SC_rgb_jpeg_dcmtk.dcm", False),
    ],
)
def test_decoders_agree(name: str, exact: bool):
    """Lossless ones to the bit; lossy ones round differently by a level."""
    syntax = pydicom.dcmread(own(name), stop_before_pixels=True).file_meta.TransferSyntaxUID
    plugins = get_decoder(syntax).available_plugins
    assert len(plugins) > 1
    first, *others = (pixel_array(own(name), decoding_plugin=plugin).astype(int) for plugin in plugins)
    for other in others:
        assert np.abs(first - other).max() <= (0 if exact else 1)


def test_a_decoder_that_is_no_part_is_named_where_it_alone_would_do(tmp_path: Path):
    if "pylibjpeg" in get_decoder(uid.JPEGExtended12Bit).available_plugins:
        assert read_frame(own("JPGExtended.dcm")).image.max() == 255
        return
    for name in ("JPGExtended.dcm", "JPEG-lossy.dcm"):
        with pytest.raises(BadSample, match=r"12 bits, which only .*libjpeg decodes.* GPL.*pip install"):
            read_frame(own(name))
    data = pydicom.dcmread(own("MR_small_jpeg_ls_lossless.dcm"))
    data.BitsStored, data.HighBit = 7, 6
    if get_decoder(uid.JPEGLSLossless).available_plugins == ("gdcm",):
        with pytest.raises(BadSample, match="with 7 bits, which pyjpegls decodes; pip install pyjpegls"):
            read_frame(save(data, tmp_path / "seven.dcm"))
    for place in ("pyproject.toml", "uv.lock"):
        text = (Path(__file__).parents[2] / place).read_text()
        assert '"pylibjpeg-libjpeg' not in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("badVR.dcm", "its NumberOfFrames is no number"),
        ("MR_truncated.dcm", "damaged or incomplete"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "of another size than its header says"),
        ("rtplan.dcm", "holds no image"),
        ("test-SR.dcm", "holds no image"),
        ("waveform_ecg.dcm", "holds no image"),
    ],
)
def test_the_rest_is_refused_for_a_reason(name: str, words: str, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(BadSample, match=words) as caught:
        read_frame(own(name))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # nothing of a decoder's own


def test_most_public_files_are_taken():
    """Of pydicom's own files that hold an image."""
    taken, refused = [], {}
    for path in dicom_files.dicom_files(own("MR_small.dcm").parent):
        try:
            header = read_header(path)
            dicom_files.image_size(header)
            read_frame(path, frame_count(header) // 2)
            taken.append(path.name)
        except BadSample as error:
            if "holds no image" not in str(error):
                refused[path.name] = str(error)
    assert len(taken) >= 60 and len(refused) <= 6, refused


def test_dicom_is_known_by_its_content(tmp_path: Path):
    whole = save(dicom(), tmp_path / "in/a.dcm").read_bytes()
    names = ["b.IMA", "c.img", "d.DCM30", "e", "1.2.840.113619", "f.dicom"]
    for name in names:
        (tmp_path / "in" / name).write_bytes(whole)
    bare = pydicom.dcmread(tmp_path / "in/a.dcm")
    for name, implicit in (("g.IMA", False), ("h.raw", True)):  # without preamble and file meta information
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, strip_meta(bare), implicit_vr=implicit, little_endian=True)
        (tmp_path / "in" / name).write_bytes(buffer.getvalue())
    (tmp_path / "in/note.txt").write_text("a letter")
    (tmp_path / "in/DICOMDIR").write_bytes(whole)
    (tmp_path / "in/photo.img").write_bytes(bytes(range(256)) * 8)
    found = scan(SourceRequest(str(tmp_path / "in")))
    assert found.problems == []
    assert [r.name for r in found.records] == sorted(["a.dcm", *names, "g.IMA", "h.raw"])
    images = [record.read().image for record in found.records]
    assert all((image == images[0]).all() for image in images)


def strip_meta(data: pydicom.Dataset) -> pydicom.Dataset:
    bare = pydicom.Dataset()
    bare.update({element.tag: element for element in data})
    return bare


def frames_without_number(compressed: bool) -> pydicom.Dataset:
    data = dicom(np.tile(RAMP, (2, 1)), Rows=64)
    if compressed:
        data = dicom()
        part = dicom()
        part.compress(uid.RLELossless)
        (frame,) = generate_fragments(part.PixelData[12:])
        data.file_meta.TransferSyntaxUID = uid.RLELossless
        data.PixelData = encapsulate([frame, frame])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    return data


def jpeg_dicom(
    stream: bytes, shape: tuple[int, int], syntax: uid.UID = uid.JPEGBaseline8Bit
) -> pydicom.Dataset:
    data = dicom(np.zeros(shape, np.uint8))
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([stream])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    return data


def jpeg(height: int, width: int, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (height, width)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def odd_files(folder: Path) -> dict[str, str]:
    """Odd DICOM files, and what is said of each."""
    save(dicom(), folder / "good.dcm")
    save(frames_without_number(False), folder / "two.dcm")
    save(frames_without_number(True), folder / "two-packed.dcm")
    no_syntax = save(dicom(), folder / "no-syntax.dcm")
    no_syntax.write_bytes(no_syntax.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.3.4.5.6.7.8.9.1\0"))
    save(jpeg_dicom(b"a film", (64, 64), uid.MPEG2MPML), folder / "video.dcm")
    whole = jpeg(64, 64)
    save(jpeg_dicom(whole, (64, 64)), folder / "jpeg.dcm")
    save(jpeg_dicom(whole[: len(whole) // 2] + b"\xff\xd9", (64, 64)), folder / "cut.dcm")
    save(jpeg_dicom(jpeg(300, 200), (64, 64)), folder / "other-size.dcm")
    save(jpeg_dicom(jpeg(300, 200, "JPEG2000")[85:], (64, 64), uid.JPEG2000), folder / "other-j2k.dcm")
    save(jpeg_dicom(b"no jpeg at all", (64, 64)), folder / "none.dcm")
    many = dicom()
    many.add_new("NumberOfFrames", "IS", "7")
    path = save(many, folder / "digits.dcm")
    element = b"\x28\x00\x08\x00IS\x02\x00" + b"7 "
    digits = b"\x28\x00\x08\x00IS" + (5000).to_bytes(2, "little") + b"9" * 5000
    assert element in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(element, digits))
    return {
        "two.dcm": "more than one frame", "two-packed.dcm": "more than one frame",
        "no-syntax.dcm": "its transfer syntax is none that DICOM names", "video.dcm": "MPEG2.* decompress it",
        "cut.dcm": "lacks its end", "other-size.dcm": "another size", "other-j2k.dcm": "another size",
        "none.dcm": "not compressed as JPEG Baseline", "digits.dcm": "its NumberOfFrames is",
    }  # fmt: skip


def test_an_odd_file_is_named_and_the_rest_is_kept(tmp_path: Path):
    expected = odd_files(tmp_path)
    found = scan(SourceRequest(str(tmp_path)))
    said = dict(problem.split(": ", 1) for problem in found.problems)
    good = []
    for record in found.records:
        try:
            record.read()
            good.append(record.name)
        except BadSample as error:
            said[record.name] = str(error)
    assert good == ["good.dcm", "jpeg.dcm"] and said.keys() == expected.keys()
    for name, words in expected.items():
        with pytest.raises(BadSample, match=words):
            raise BadSample(said[name])
        assert "\n" not in said[name]


def test_a_deflated_file_is_inflated_no_further_than_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = dicom()
    data.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    path = save(data, tmp_path / "deflated.dcm")
    np.testing.assert_array_equal(
        read_frame(path).image, read_frame(save(dicom(), tmp_path / "plain.dcm")).image
    )
    monkeypatch.setattr(dicom_files, "MAX_BYTES", 2**22)
    bomb, start = tmp_path / "bomb.dcm", path.read_bytes()
    head = start[: 144 + int.from_bytes(start[140:144], "little")]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb.write_bytes(head + packer.compress(bytes(2**26)) + packer.flush())
    assert bomb.stat().st_size < 100_000
    for read in (read_header, read_frame):
        with pytest.raises(BadSample, match="inflates to more than the 4,194,304 bytes"):
            read(bomb)
    (tmp_path / "bare.dcm").write_bytes(bomb.read_bytes()[132:])  # without a preamble
    with pytest.raises(BadSample, match="inflates to more"):
        read_header(tmp_path / "bare.dcm")


def test_frames_are_chosen(tmp_path: Path):
    frames = np.stack([np.roll(RAMP, 16 * k, 1) for k in range(5)])
    path = save(dicom(frames.reshape(-1, 256), Rows=64, NumberOfFrames=5), tmp_path / "cine.dcm")
    (problem,) = scan(SourceRequest(str(tmp_path))).problems
    assert problem.startswith("cine.dcm: holds 5 frames; say which to take with prepare's --frames first, ")
    for choice, numbers in {"first": [0], "middle": [2], "all": [0, 1, 2, 3, 4]}.items():
        records = scan(SourceRequest(str(tmp_path), frames=choice)).records  # pyright: ignore
        assert [(r.name, r.patient, r.where) for r in records] == [
            (f"cine.dcm#{n + 1}", "P1", f"cine.dcm, frame {n + 1}") for n in numbers
        ]
        for record, number in zip(records, numbers, strict=True):
            np.testing.assert_array_equal(record.read().image, read_frame(path, number).image)
    assert not np.array_equal(read_frame(path, 0).image, read_frame(path, 3).image)


def test_what_might_stand_for_a_missing_patient_is_proposed(tmp_path: Path):
    for index in range(6):
        data = dicom(StudyInstanceUID=f"1.2.{index // 2}", AccessionNumber="A" if index else "")
        if index != 5:
            del data.PatientID
        save(data, tmp_path / f"{index}.dcm")
    found = scan(SourceRequest(str(tmp_path)))
    assert [record.name for record in found.records] == ["5.dcm"]
    assert found.problems == [
        f"{index}.dcm: has no PatientID; name another tag with --patient-column, such as StudyInstanceUID "
        "(3 values in 5 of 5 files) or AccessionNumber (1 values in 4 of 5 files)"
        for index in range(5)
    ]


def test_only_regular_files_below_the_folder_are_read(tmp_path: Path):
    folder = tmp_path / "in"
    save(dicom(), folder / "good.dcm")
    save(dicom(), tmp_path / "out.dcm")
    os.mkfifo(folder / "pipe.dcm")
    os.mkfifo(folder / "pipe")
    (folder / "zero.dcm").symlink_to("/dev/zero")
    (folder / "out.dcm").symlink_to(tmp_path / "out.dcm")
    (folder / "loop").symlink_to(folder)
    found = scan(SourceRequest(str(folder)))
    assert [record.name for record in found.records] == ["good.dcm"]
    assert len(found.problems) == 1 and found.problems[0].startswith("pipe.dcm: not a regular file")
    assert found.notes == ["3 links are not followed; give files themselves"]
    (folder / "metadata.csv").write_text("image,report,who\nzero.dcm,Clear.,p\nloop/good.dcm,Clear.,p\n")
    found = scan(SourceRequest(str(folder), patient_column="who"))
    assert "leads out of the folder" in found.problems[0] and len(found.records) == 1


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_jpeg_gdcm.dcm",  # JPEG Lossless
        "SC_rgb_jpeg_dcmtk.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "JPEGLSNearLossless_16.dcm",
        "JPEG2000.dcm",
        "MR_small_RLE.dcm",
    ],
)
def test_compressed_pixels_without_their_end_are_refused(tmp_path: Path, name: str):
    data = pydicom.dcmread(own(name))
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    end = b"" if "RLE" in name else b"\xff\xd9"
    for share in (0.3, 0.9):
        data.PixelData = encapsulate([frame[: int(len(frame) * share)].rstrip(b"\xff") + end])
        data.save_as(tmp_path / "cut.dcm")
        with pytest.raises(BadSample, match="damaged or incomplete; export it again"):
            read_frame(tmp_path / "cut.dcm")


def test_a_decoder_that_breaks_down_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """GDCM ends its process at a colour transform that Adobe did not define."""
    data = bytearray(own("SC_rgb_jpeg_app14_dcmd.dcm").read_bytes())
    at = data.index(b"Adobe\0") + 11
    data[at] = 4
    broken, whole = tmp_path / "broken.dcm", own("SC_rgb_jpeg_dcmtk.dcm")
    broken.write_bytes(data)
    with pytest.raises(BadSample, match="its decoder broke down on it: damaged"):
        read_frame(broken)
    assert read_frame(whole).image.shape == (100, 100, 3)
    monkeypatch.setattr(decoder_process, "SECONDS", 0.0)
    decoder_process._thread.process.end()  # a new one takes longer to start
    with pytest.raises(BadSample, match="its decoder did not come to an end"):
        read_frame(whole)
    monkeypatch.undo()
    assert read_frame(whole).image.shape == (100, 100, 3)
    assert capfd.readouterr().err == ""


def test_decoders_end_with_their_threads():
    before = decoder_process.DecoderProcess()
    process = before._process
    assert before.decode(str(own("JPEG2000.dcm")), 0, uid.JPEG2000, 1).shape == (1024, 256)
    del before
    assert process.poll() is not None
