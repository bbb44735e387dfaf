"""Fixtures for the tests of models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture
def mmdet_scope() -> Iterator[None]:
    """Types without a scope are looked up in mmdet."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield
