"""CBAM, the convolutional block attention module. This file needs torch alone.

Paper: Woo et al., CBAM, ECCV 2018, section 3 (arXiv 1807.06521)::

    F' = M_c(F) * F        F'' = M_s(F') * F'                                          (1)
    M_c(F) = sigmoid(MLP(AvgPool(F)) + MLP(MaxPool(F)))          channel gate          (2)
    M_s(F) = sigmoid(conv([AvgPool(F); MaxPool(F)]))             spatial gate          (3)

    N batch, C channels, H x W pixels, P pools, K kernel size

What the paper leaves open is as in its authors' code: biases in the MLP, maximum before mean in the
spatial gate, no bias in its convolution and a BatchNorm behind. One deviation: the module changes
nothing at the start (`start='identity'`); `start='paper'` starts as the authors do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from . import checks, memory_efficient
from .cpu import FewMapsConv2d
from .gate import Gate
from .norm import OwnNorm, normalise
from .pooling import pool_channels, pool_space

ORDERS = ('channel-spatial', 'spatial-channel', 'parallel', 'channel', 'spatial')
NormLayer = Callable[[int], nn.Module]
BatchNorm = partial(nn.BatchNorm2d, momentum=0.01)

torch.fx.wrap('pool_space')  # whose sums depend on the type, which a tracer does not know
torch.fx.wrap('pool_channels')


class ChannelGate(Gate):
    """M_c, equation 2: what to attend to. The options are those of `CBAM`."""

    name, axis = 'channel', 2  # the axis of (N, C, H * W) that is pooled

    def __init__(
        self,
        in_channels: int,
        ratio: int = 16,
        pools: Sequence[str] = ('avg', 'max'),
        mlp_bias: bool = True,
        act_layer: Callable[[], nn.Module] = nn.ReLU,
        start: str = 'identity',
    ) -> None:
        super().__init__(start)
        checks.ratio(in_channels, ratio)
        self.pools = checks.pools('pools', pools)
        self.fc1 = nn.Linear(in_channels, in_channels // ratio, bias=mlp_bias)
        self.act = act_layer()
        self.fc2 = nn.Linear(in_channels // ratio, in_channels, bias=mlp_bias)

    def pool(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> one number for each pool and channel, (N, P, C)."""
        return pool_space(x, self.pools)

    def logits(self, pooled: Tensor) -> Tensor:
        """(N, P, C) -> (N, C, 1, 1): the MLP of each pool's numbers, summed."""
        mlp = self.fc2(self.act(self.fc1(pooled.to(self.fc1.weight.dtype))))
        return mlp.sum(1).to(pooled.dtype)[:, :, None, None]

    def reset_parameters(self) -> None:
        """PyTorch's start, but biases at 0; for the identity the last layer's weights as well."""
        self.fc1.reset_parameters()
        self.fc2.reset_parameters()
        super().reset_parameters()
        if self.gain is not None:
            nn.init.zeros_(self.fc2.weight)


class SpatialGate(OwnNorm, Gate):
    """M_s, equation 3: where to attend to. The options are those of `CBAM`; `pools` is its
    `spatial_pools`. Where a batch has one value in all, BatchNorm uses its running statistics.
    """

    name, axis = 'spatial', 1

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 7,
        pools: Sequence[str] | str = ('max', 'avg'),
        norm_layer: NormLayer | None = BatchNorm,
        conv_bias: bool = False,
        norm_eval: bool = False,
        start: str = 'identity',
    ) -> None:
        super().__init__(start)
        checks.kernel(in_channels, kernel_size)
        learned = pools in ('conv', ('conv',), ['conv'])
        self.pools = ('conv',) if learned else checks.pools('spatial_pools', pools)
        self.summary = nn.Conv2d(in_channels, 1, 1) if learned else None
        maps, padding = len(self.pools), kernel_size // 2
        self.conv = FewMapsConv2d(maps, 1, kernel_size, padding=padding, bias=conv_bias)
        self.norm_eval = norm_eval
        self.add_module('norm', nn.Identity() if norm_layer is None else norm_layer(1))
        checks.norm(self.norm, start)

    def pool(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> one map for each pool, (N, P, H, W)."""
        if self.summary is not None:
            return self.summary(x.to(self.summary.weight.dtype))
        return pool_channels(x, self.pools)

    def logits(self, pooled: Tensor) -> Tensor:
        """(N, P, H, W) -> (N, 1, H, W): convolution and norm."""
        maps = self.conv(pooled.to(self.conv.weight.dtype))
        return normalise(maps, self.norm).to(pooled.dtype)

    def reset_parameters(self) -> None:
        """Kaiming convolutions, and the norm's weight at 0; without a norm the identity needs the
        KxK convolution at 0.
        """
        for conv in filter(None, (self.summary, self.conv)):
            nn.init.kaiming_normal_(conv.weight, mode='fan_out')
        super().reset_parameters()
        weight = getattr(self.norm, 'weight', None)
        if weight is not None:
            nn.init.zeros_(weight)
        elif self.gain is not None:
            nn.init.zeros_(self.conv.weight)


class CBAM(nn.Module):
    """Channel and spatial attention on a feature map, equation 1.

    Args:
        in_channels: C.
        ratio: the hidden width of the channel gate's MLP is `in_channels // ratio`, 1 or more.
        pools: the channel gate's, any of 'avg', 'max', 'lp', 'lse'.
        order: 'channel-spatial' (the paper's choice), 'spatial-channel', 'parallel' (both gates
            read the input), 'channel' (with pools=('avg',) that is SE) or 'spatial' alone.
        kernel_size: K, odd.
        spatial_pools: the spatial gate's, in the order in which the convolution reads them; or
            'conv', a learned 1x1 convolution to one map (table 2 of the paper).
        mlp_bias, conv_bias: biases in the MLP's two layers and in the KxK convolution.
        act_layer: makes the MLP's activation.
        norm_layer: makes the norm behind the convolution from its channels, 1; None for no norm.
        start: 'identity' makes both gates `2 * sigmoid`, exactly 1 at first: a pretrained network
            keeps its features to the bit, and trains from there. 'paper' starts both gates near
            1/2, as the authors do. See docs/how_it_works/identity.md.
        norm_eval: that norm keeps its statistics in training, whatever the host's option of that
            name says.
        frozen: the module does not train, its norm included.
        memory_efficient: keep one feature map for the backward pass and recompute the rest, faster
            than autograd on the equations; see memory_efficient.py. False is for a second
            derivative, and for hooks on the gates that bring parameters of their own.
        device, dtype: of the parameters, as in torch's layers.

    Raises:
        ValueError: an option is outside its range; the message names the value and the remedy.
    """

    def __init__(
        self,
        in_channels: int,
        ratio: int = 16,
        pools: Sequence[str] = ('avg', 'max'),
        order: str = 'channel-spatial',
        kernel_size: int = 7,
        spatial_pools: Sequence[str] | str = ('max', 'avg'),
        mlp_bias: bool = True,
        act_layer: Callable[[], nn.Module] = nn.ReLU,
        norm_layer: NormLayer | None = BatchNorm,
        conv_bias: bool = False,
        start: str = 'identity',
        norm_eval: bool = False,
        frozen: bool = False,
        memory_efficient: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        checks.choice('order', order, ORDERS)
        checks.switches(frozen=frozen, norm_eval=norm_eval, memory_efficient=memory_efficient)
        self.in_channels, self.order = in_channels, order
        self.frozen, self.memory_efficient = frozen, memory_efficient
        self.channel_gate: ChannelGate | None = None
        self.spatial_gate: SpatialGate | None = None
        if order != 'spatial':
            self.channel_gate = ChannelGate(in_channels, ratio, pools, mlp_bias, act_layer, start)
        if order != 'channel':
            self.spatial_gate = SpatialGate(
                in_channels,
                kernel_size,
                spatial_pools,
                norm_layer,
                conv_bias,
                norm_eval=norm_eval or frozen,
                start=start,
            )
        self.reset_parameters()
        self.requires_grad_(not frozen).to(device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), the input times its weights. ValueError for another C."""
        checks.feature_map(x, self.in_channels)
        if self.memory_efficient and memory_efficient.fits(x):
            return memory_efficient.attend(x, self.sequence(), parallel=self.order == 'parallel')
        y = x
        for gate in self.sequence():
            y = y * gate(x if self.order == 'parallel' else y)
        return y

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """The weights that `forward` multiplies `x` with, in their order: 'channel' (N, C, 1, 1)
        and 'spatial' (N, 1, H, W), as far as the order has them.
        """
        weights = {}
        for gate in self.sequence():
            weights[gate.name] = gate(x)
            if self.order != 'parallel':
                x = x * weights[gate.name]
        return weights

    def sequence(self) -> list[Gate]:
        """The gates in their order."""
        names = 'channel-spatial' if self.order == 'parallel' else self.order
        return [getattr(self, f'{name}_gate') for name in names.split('-')]

    def reset_parameters(self) -> None:
        """Set the start that the option `start` names."""
        for gate in self.sequence():
            gate.reset_parameters()

    def extra_repr(self) -> str:
        """The options that the children do not show."""
        return f'order={self.order!r}, memory_efficient={self.memory_efficient}'
