from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests run side by side; each stays on one core unless it says otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, teachers and golden data beside the checkout; its absence skips the test."""
    if not SHARED.is_dir():
        pytest.skip("no shared data beside the checkout")
    return SHARED
