"""Fixtures for the tests of pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ..conftest import in_process


@pytest.fixture(scope='module')
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A picture of 120 x 80 pixels."""
    path = tmp_path_factory.mktemp('photo') / 'photo.png'
    values = np.random.default_rng(0).integers(256, size=(80, 120, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return str(path)


@pytest.fixture(scope='module')
def tool() -> Callable[..., int]:
    """`tools/visualize.py`, run in this process."""
    return in_process('visualize')
