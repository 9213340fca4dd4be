"""Pseudonyms: stable under a key, unrelated without it; and signs of identity in free text."""

from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

import pytest

from medsd_ray.data.free_text import signs_of_identity
from medsd_ray.data.pseudonyms import KEY_VARIABLE, Pseudonyms, key_file, load_key
from medsd_ray.errors import InputError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def test_a_pseudonym_is_the_keyed_hash():
    expected = hmac.new(b"k" * 16, b"patient\x0000012345", hashlib.sha256).hexdigest()
    names = Pseudonyms(b"k" * 16)
    assert names.of("patient", "00012345") == expected[:24]
    assert names.of("patient", "00012345") != names.of("sample", "00012345")
    assert names.of("patient", "00012345") != Pseudonyms(b"l" * 16).of("patient", "00012345")


def test_the_key_is_made_once_and_for_its_owner_alone():
    key = load_key()
    assert len(key) == 64 and load_key() == key
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
    assert [path.name for path in key_file().parent.iterdir()] == [key_file().name]


def test_the_environment_goes_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_VARIABLE, "a key of the environment")
    assert load_key() == b"a key of the environment"
    assert not key_file().exists()


def test_weak_and_open_keys_are_refused(monkeypatch: pytest.MonkeyPatch):
    load_key()
    key_file().chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        load_key()
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(InputError, match=KEY_VARIABLE):
        load_key()


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("Findings were discussed with Dr. Smith.", "title"),
        ("Mrs O'Neill was seen", "title"),
        ("Patient: Jane Doe", "patient's name"),
        ("patient's name: Doe", "patient's name"),
        ("DOB 3 May", "date of birth"),
        ("compared to 03/12/2019", "a date"),
        ("compared to 2019-03-12", "a date"),
        ("MRN: 4711A", "record number"),
        ("Accession number 12-B7", "record number"),
        ("see 123456789", "record number"),
        ("jane.doe@example.org", "e-mail"),
        ("call 555-123-4567", "telephone"),
    ],
)
def test_text_that_may_name_a_person(text: str, sign: str):
    assert any(sign in found for found in signs_of_identity(text))


@pytest.mark.parametrize(
    "text",
    [
        "The heart is normal in size. No pleural effusion.",
        "Dr. XXXX was notified. Patient: XXXX",
        "A nodule of 1.9 x 1.8 cm in the left lower lobe, T9-T10, 3 mm",
        "The patient is rotated. Name the views: PA and lateral.",
        "A photo of a lung xray with a visible pneumonia",
    ],
)
def test_plain_reports_raise_no_alarm(text: str):
    assert signs_of_identity(text) == ()
