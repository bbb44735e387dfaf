"""Fixtures for the tests of studies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cbam_det.studies.study import Study, read_study

from ..conftest import in_process
from .small_study import SMALL


@pytest.fixture
def small(tmp_path: Path) -> Study:
    """A study of three rows, whose file is in the folder `studies`."""
    path = tmp_path / 'studies' / 'small.yaml'
    path.parent.mkdir()
    path.write_text(SMALL)
    return read_study(path)


@pytest.fixture
def tool() -> Callable[..., int]:
    """`tools/experiment.py`, run in this process."""
    return in_process('experiment')
