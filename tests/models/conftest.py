"""What trainings within one process of tests need."""

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Its precision is a state of the process; a user's process trains one recipe."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)
