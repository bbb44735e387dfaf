"""Fixtures for the tests of models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mmengine.registry import DefaultScope

from cbam_det.models.layers import memory_efficient


@pytest.fixture(autouse=True)
def _no_map_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The maps of these tests are small, and the memory-efficient pass is what they test."""
    monkeypatch.setattr(memory_efficient, 'SMALL', 0)


@pytest.fixture
def mmdet_scope() -> Iterator[None]:
    """Types without a scope are looked up in mmdet."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield
