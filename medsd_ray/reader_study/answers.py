"""Readers' answers in SQLite, each written to disk at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medsd_ray.errors import InputError
from medsd_ray.times import now

_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    reader TEXT NOT NULL,
    image TEXT NOT NULL,
    realism INTEGER NOT NULL CHECK (realism BETWEEN 1 AND 5),
    abnormal INTEGER NOT NULL CHECK (abnormal IN (0, 1)),
    x0 REAL, y0 REAL, x1 REAL, y1 REAL,
    judged TEXT NOT NULL CHECK (judged IN ('real', 'generated')),
    seconds REAL NOT NULL,
    answered TEXT NOT NULL,
    PRIMARY KEY (reader, image)
) WITHOUT ROWID
"""


Region = tuple[float, float, float, float]


@dataclass(frozen=True)
class Answer:
    """One reader's rating of one image. `region` is where the abnormality is: left, top, right, bottom as
    shares of the image (a point has no extent), None where the reader marked nothing. `seconds` is how long
    it was looked at.
    """

    reader: str
    image: str
    realism: int
    abnormal: bool
    region: Region | None
    judged: str  # "real" or "generated"
    seconds: float
    answered: str = ""  # UTC, set when it is written


class Answers:
    """The answers of a study. A connection for each call, so that any thread and process may use one."""

    def __init__(self, path: Path):
        """Raises InputError where `path` cannot be a database."""
        self.path = path
        try:
            with self._open() as database:
                database.execute("PRAGMA journal_mode=WAL")
                database.execute(_TABLE)
        except sqlite3.Error as error:
            raise InputError(f"{path}: no database of answers can be kept here ({error})") from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self.path, timeout=30)
        try:
            database.execute("PRAGMA synchronous=FULL")
            with database:
                yield database
        finally:
            database.close()

    def write(self, answer: Answer) -> None:
        """Keeps an answer; a later one to the same image takes its place."""
        region = answer.region or (None,) * 4
        row = (
            answer.reader,
            answer.image,
            answer.realism,
            answer.abnormal,
            *region,
            answer.judged,
            answer.seconds,
            now(),
        )
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def read(self, reader: str | None = None) -> list[Answer]:
        """A reader's answers, or all, ordered by reader and image."""
        where, values = ("WHERE reader = ?", [reader]) if reader is not None else ("", [])
        with self._open() as database:
            rows = database.execute(
                f"SELECT * FROM answers {where} ORDER BY reader, image", values
            ).fetchall()
        return [_answer(row) for row in rows]


def _answer(row: tuple) -> Answer:
    reader, image, realism, abnormal, x0, y0, x1, y1, judged, seconds, answered = row
    region = None if x0 is None else (x0, y0, x1, y1)
    return Answer(reader, image, realism, bool(abnormal), region, judged, seconds, answered)
