"""Images that are decoded at once share a bounded memory."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsd_ray.data import split_writer
from medsd_ray.data.sources import image_files
from medsd_ray.data.sources.decoding_room import DecodingRoom
from medsd_ray.data.sources.folder import scan
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.split_writer import PseudonymousRecord, read_sample


def test_no_more_is_taken_at_once_than_there_is_room_for():
    room, seen = DecodingRoom(100), []

    def decode(count: int) -> None:
        with room.visit():
            room.reserve(count)
            seen.append(room.taken)
            time.sleep(0.002)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [40, 70, 250, 30, 30, 30, 99, 1] * 4))
    assert len(seen) == 32 and room.taken == 0
    assert all(taken <= 100 or taken == 250 for taken in seen)  # what is larger than the room goes alone


def test_an_error_gives_its_part_back_and_outside_of_a_visit_nothing_is_counted():
    room = DecodingRoom(100)
    room.reserve(1000)
    assert room.taken == 0
    with pytest.raises(OSError), room.visit():
        room.reserve(100)
        room.reserve(10)  # whoever holds some does not wait
        assert room.taken == 110
        raise OSError
    assert room.taken == 0


def test_samples_are_read_within_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Eight threads, images of 16 bytes a pixel, and room for three of them."""
    room = DecodingRoom(3 * 64 * 64 * 16)
    monkeypatch.setattr(image_files, "decoding_room", room)
    monkeypatch.setattr(split_writer, "decoding_room", room)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    for index in range(16):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    lines = "".join(f"{index}.png,Clear.,p\n" for index in range(16))
    (tmp_path / "metadata.csv").write_text("image,report,patient_id\n" + lines)
    most, lock = 0, threading.Lock()
    reserve = room.reserve

    def counted(count: int) -> None:
        nonlocal most
        reserve(count)
        with lock:
            most = max(most, room.taken)

    monkeypatch.setattr(room, "reserve", counted)
    records = [PseudonymousRecord(r.name, r.patient, r) for r in scan(SourceRequest(str(tmp_path))).records]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda record: read_sample(record, 8), records))
    assert all(isinstance(outcome, tuple) for outcome in outcomes)
    assert 0 < most <= room.size and room.taken == 0
