"""A container's user may be a number without a name, for whom libraries ask as they are imported."""

from __future__ import annotations

import getpass
import importlib
import os
import pwd

import pytest

import medsd_ray

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_a_user_without_a_name_gets_one(nameless: None, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    monkeypatch.setenv("USER", "")  # so that it is as it was when the test ends
    importlib.reload(medsd_ray)
    assert getpass.getuser() == f"uid-{os.getuid()}"


def test_a_name_stays_as_it_is(nameless: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOGNAME", "ada")
    importlib.reload(medsd_ray)
    assert getpass.getuser() == "ada" and "USER" not in os.environ
