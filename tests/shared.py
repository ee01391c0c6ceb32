"""The reference numbers and real clips beside the checkout; absent from a user's machine."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
REFERENCE = SHARED / "reference"
CLIPS = SHARED / "clips"
DATA = SHARED / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"reference numbers and clips are not at {SHARED}"
)
