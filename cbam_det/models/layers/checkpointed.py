"""CBAM by checkpoints, for pools whose backward pass memory_efficient.py does not write out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .gate import Gate
from .versions import if_unchanged, with_version


def attend_checkpointed(x: Tensor, gates: Sequence[Gate], parallel: bool) -> Tensor:
    """The equations by checkpoints that keep only `x`: each step is recomputed from it."""
    weights: list[Tensor] = []
    for gate in gates:
        summary = getattr(gate, 'summary', None)
        parameters = () if summary is None else (summary.weight,)
        previous = () if parallel else weights
        pooled = _checkpointed(partial(_pool_product, gate), (x, *previous), parameters)
        weights.append(gate(pooled, pooled=True))
    return _checkpointed(_product, (x, *weights))


def _checkpointed(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], parameters: Sequence[Tensor] = ()
) -> Tensor:
    """`function(*tensors)`, recomputed in the backward pass.

    Raises:
        RuntimeError: in the backward pass, if a tensor or a parameter was changed in place.
    """
    saved = [with_version(tensor) for tensor in (*tensors, *parameters)]

    def run(*tensors: Tensor) -> Tensor:
        for saved_tensor in saved:
            if_unchanged(saved_tensor)
        return function(*tensors)

    return checkpoint(run, *tensors, use_reentrant=False, preserve_rng_state=False)


def _product(x: Tensor, *weights: Tensor) -> Tensor:
    for weight in weights:
        x = x * weight.to(x.dtype)
    return x


def _pool_product(gate: Gate, x: Tensor, *weights: Tensor) -> Tensor:
    return gate.pool(_product(x, *weights))
