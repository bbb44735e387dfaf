"""Fixtures for the tests of checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from .other_implementations import MAKERS, randomised


@pytest.fixture(scope='module')
def theirs() -> Callable[[str, int], nn.Module]:
    """A function that builds the network of a form and a depth, each only once."""
    networks: dict[tuple[str, int], nn.Module] = {}

    def get(form: str, depth: int = 18) -> nn.Module:
        if (form, depth) not in networks:
            networks[form, depth] = randomised(MAKERS[form](depth))
        return networks[form, depth]

    return get
