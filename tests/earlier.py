"""What earlier versions of medsd wrote, kept so that later ones still read it; see the README beside each."""

from __future__ import annotations

from pathlib import Path

EA425E8 = Path(__file__).parent / "fixtures" / "ea425e8"
