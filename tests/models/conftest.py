"""What the tests of models share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture
def mmdet_scope() -> Iterator[None]:
    """Types without a scope are mmdet's."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield
