"""What the tests of converted checkpoints share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from .other_implementations import MAKERS, randomised


@pytest.fixture(scope='module')
def theirs() -> Callable[[str, int], nn.Module]:
    """The network of another implementation, of a form and a depth; it is made once."""
    made: dict[tuple[str, int], nn.Module] = {}

    def get(form: str, depth: int = 18) -> nn.Module:
        if (form, depth) not in made:
            made[form, depth] = randomised(MAKERS[form](depth))
        return made[form, depth]

    return get
