"""A map that the backward pass computes again from what autograd keeps in any case.

Autograd keeps the input of a norm for the norm's gradient. Where a norm's statistics are fixed, as
in most detectors (`norm_eval=True`), its output is one multiplication and addition of that input.
So a CBAM after such a norm need not keep its own input.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .pooling import is_traced
from .torch_private import BatchNormBase, output_is_replaced

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


class NormInput:
    """The input of a BatchNorm with fixed statistics.

    Attributes:
        tensors: the input (N, C, H, W), and the norm's mean, variance, weight and bias, detached.
        dtype: of the input and of the norm's output.
        eps: the norm's epsilon.
    """

    def __init__(self, norm: BatchNormBase, x: Tensor) -> None:
        tensors = (x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        # A detached tensor shares the version counter, so autograd sees changes in place.
        self.tensors = [tensor if tensor is None else tensor.detach() for tensor in tensors]
        self.dtype, self.eps = x.dtype, norm.eps

    def norm_output(
        self, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """The norm's output, to the bit, from its `tensors`."""
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=self.eps)


def find_norm_input(module: nn.Module, args: tuple, output: Tensor) -> NormInput | None:
    """The input from which `output` of `module` can be computed again, or None if it cannot.

    None too where autograd would not keep the input, and where another hook or a replaced `forward`
    may have changed the output.
    """
    if not isinstance(module, BatchNormBase) or type(module) not in NORMS or not args:
        return None
    if module.training or module.running_mean is None:
        return None
    if is_traced(output) or not output.requires_grad or output_is_replaced(module):
        return None
    x = args[0]
    return NormInput(module, x) if x.dtype == output.dtype else None
