"""What a message quotes of a file neither breaks its line nor commands a terminal."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from medsd_ray.cli.main import main
from medsd_ray.data.bad_samples import note
from medsd_ray.data.sources.source import BadSample
from medsd_ray.documents import DocumentError
from medsd_ray.errors import InputError, RefusedError, RunError, in_one_line


@pytest.mark.parametrize("kind", [InputError, RefusedError, RunError, BadSample, DocumentError])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no column 'x'", "no column 'x'"),
        ("größer als 3 µm, 胸部", "größer als 3 µm, 胸部"),
        ("a\nb\r\tc\0", r"a b c\x00"),
        ("\x1b[2Jgone \u2028 \u202e", r"\x1b[2Jgone \u202e"),
        ("\udcff", r"\udcff"),
        ("a" * 9000 + "\n" + "z" * 9000, "a" * 1998 + " … " + "z" * 1999),
    ],
)
def test_a_message_is_one_line(kind: type[Exception], text: str, shown: str):
    error = kind(text)
    assert str(error) == f"{error}" == shown == in_one_line(text)
    assert str(pickle.loads(pickle.dumps(error))) == shown


def test_a_list_of_bad_samples(capsys: pytest.CaptureFixture[str]):
    note("line 2: a\n\x1b[1mb.png")
    assert capsys.readouterr().err == "line 2: a \\x1b[1mb.png\n"


@pytest.mark.parametrize("words", [["train", "\x1b[1m\nb.yaml"], ["a\nb"], ["a\x1b"]])
def test_the_command(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["medsd", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.rstrip("\n").isprintable()
