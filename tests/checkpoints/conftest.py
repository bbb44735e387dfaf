"""Fixtures for the tests of checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from .other_implementations import MAKERS, randomised


@pytest.fixture(scope='module')
def theirs() -> Callable[[str, int], nn.Module]:
    """A function that builds the network of a format and a depth, each only once."""
    networks: dict[tuple[str, int], nn.Module] = {}

    def get(source: str, depth: int = 18) -> nn.Module:
        if (source, depth) not in networks:
            networks[source, depth] = randomised(MAKERS[source](depth))
        return networks[source, depth]

    return get
