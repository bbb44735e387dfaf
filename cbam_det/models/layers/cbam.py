"""CBAM, the convolutional block attention module. This file needs only torch.

Paper: Woo et al., CBAM, ECCV 2018, section 3 (arXiv 1807.06521)::

    F' = M_c(F) * F        F'' = M_s(F') * F'                                          (1)
    M_c(F) = sigmoid(MLP(AvgPool(F)) + MLP(MaxPool(F)))          channel gate          (2)
    M_s(F) = sigmoid(conv([AvgPool(F); MaxPool(F)]))             spatial gate          (3)

    N batch, C channels, H x W pixels, P pools, K kernel size

Details that the paper does not give follow the authors' code: the MLP has biases, the spatial gate
stacks the maximum before the mean, and its convolution has no bias and is followed by BatchNorm.
One deviation: by default the module starts as the identity (`start='identity'`). `start='paper'`
starts as the authors' code does.
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
from .norm_input import NormInput
from .pooling import pool_channels, pool_space

ORDERS = ('channel-spatial', 'spatial-channel', 'parallel', 'channel', 'spatial')
NormLayer = Callable[[int], nn.Module]
BatchNorm = partial(nn.BatchNorm2d, momentum=0.01)

torch.fx.wrap('pool_space')  # it branches on the dtype, which a tracer does not know
torch.fx.wrap('pool_channels')


class ChannelGate(Gate):
    """M_c, equation 2: what to attend to. `CBAM` describes the options."""

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
        """(N, C, H, W) -> (N, P, C): one number per pool and channel."""
        return pool_space(x, self.pools)

    def logits(self, pooled: Tensor) -> Tensor:
        """(N, P, C) -> (N, C, 1, 1): the MLP's outputs, summed over the pools."""
        mlp = self.fc2(self.act(self.fc1(pooled.to(self.fc1.weight.dtype))))
        return mlp.sum(1).to(pooled.dtype)[:, :, None, None]

    def reset_parameters(self) -> None:
        """PyTorch's initialisation with biases of 0; for the identity fc2's weights are 0 too."""
        self.fc1.reset_parameters()
        self.fc2.reset_parameters()
        super().reset_parameters()
        if self.gain is not None:
            nn.init.zeros_(self.fc2.weight)


class SpatialGate(OwnNorm, Gate):
    """M_s, equation 3: where to attend to. `CBAM` describes the options; `pools` is its
    `spatial_pools`. BatchNorm uses its running statistics if a batch has only one value.
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
        """(N, C, H, W) -> (N, P, H, W): one map per pool."""
        if self.summary is not None:
            return self.summary(x.to(self.summary.weight.dtype))
        return pool_channels(x, self.pools)

    def logits(self, pooled: Tensor) -> Tensor:
        """(N, P, H, W) -> (N, 1, H, W): the convolution, then the norm."""
        maps = self.conv(pooled.to(self.conv.weight.dtype))
        return normalise(maps, self.norm).to(pooled.dtype)

    def reset_parameters(self) -> None:
        """Kaiming initialisation of the convolutions and a norm weight of 0. For the identity
        without a norm the KxK convolution is 0 instead.
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
    """Channel and spatial attention for a feature map, equation 1.

    Args:
        in_channels: C.
        ratio: the MLP of the channel gate has `in_channels // ratio` hidden channels, 1 or more.
        pools: the pools of the channel gate, any of 'avg', 'max', 'lp', 'lse'.
        order: 'channel-spatial' (the paper's choice), 'spatial-channel', 'parallel' (both gates
            read the input), or one gate only: 'channel' (SE with pools=('avg',)) or 'spatial'.
        kernel_size: K, odd.
        spatial_pools: the pools of the spatial gate, in the order of the convolution's input maps;
            or 'conv', a learned 1x1 convolution to one map (table 2 of the paper).
        mlp_bias, conv_bias: add biases to the two layers of the MLP and to the KxK convolution.
        act_layer: a function that builds the activation of the MLP.
        norm_layer: a function that builds the norm after the convolution from its number of
            channels, 1; None for no norm.
        start: 'identity' makes both gates `2 * sigmoid`, exactly 1 at the start, so a pretrained
            network begins with bitwise unchanged features. 'paper' starts both gates near 1/2, as
            the authors' code does. See docs/how_it_works/identity.md.
        norm_eval: keep the norm's statistics fixed in training. The backbone's option `norm_eval`
            has no effect on this norm.
        frozen: train neither the parameters nor the norm's statistics.
        memory_efficient: True keeps at most one feature map for the backward pass and recomputes
            the rest, False leaves the equations to autograd; see memory_efficient.py. None takes
            the faster of the two for the size of the map; they differ in rounding, and in the
            gradient of tied maxima. Set it to False for second derivatives and for hooks on the
            gates that have parameters of their own.
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
        memory_efficient: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        checks.choice('order', order, ORDERS)
        checks.switches(frozen=frozen, norm_eval=norm_eval)
        checks.memory_efficient(memory_efficient)
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
        if frozen:  # otherwise each layer keeps its own setting
            self.requires_grad_(False)
        self.to(device=device, dtype=dtype)

    def forward(self, x: Tensor, norm_input: NormInput | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W): the input times its weights.

        Args:
            x: the feature map.
            norm_input: what a norm computed `x` from; the memory-efficient pass then keeps no map.

        Raises:
            ValueError: the input has another shape.
        """
        checks.feature_map(x, self.in_channels)
        if memory_efficient.is_used(x, self.memory_efficient):
            parallel = self.order == 'parallel'
            return memory_efficient.attend(x, self.sequence(), parallel, norm_input)
        y = x
        for gate in self.sequence():
            y = y * gate(x if self.order == 'parallel' else y)
        return y

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """The weights that `forward` multiplies `x` by, in this order: 'channel' (N, C, 1, 1) and
        'spatial' (N, 1, H, W), or only the one that `order` has.
        """
        weights = {}
        for gate in self.sequence():
            weights[gate.name] = gate(x)
            if self.order != 'parallel':
                x = x * weights[gate.name]
        return weights

    def sequence(self) -> list[Gate]:
        """The gates in the order in which they run."""
        names = 'channel-spatial' if self.order == 'parallel' else self.order
        return [getattr(self, f'{name}_gate') for name in names.split('-')]

    def reset_parameters(self) -> None:
        """Initialise the parameters according to the option `start`."""
        for gate in self.sequence():
            gate.reset_parameters()

    def extra_repr(self) -> str:
        """The options that the children do not show."""
        return f'order={self.order!r}, memory_efficient={self.memory_efficient}'
