"""CBAM, the convolutional block attention module, as an MMEngine plugin.

Paper: Woo et al., CBAM, ECCV 2018, section 3 (arXiv 1807.06521). The defaults are the module that
its authors published: an MLP with biases that the pools share, a spatial summary of maximum then
mean, and a 7x7 convolution without bias before a BatchNorm.

    N batch, C channels, H x W pixels, P pools chosen, K kernel size

The gates return weights and the module multiplies, so that `CBAM.gates` shows what is applied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from . import memory_efficient as efficient
from .pooling import POOLS, pool_channels, pool_space

ORDERS = ('channel-spatial', 'spatial-channel', 'parallel', 'channel', 'spatial')
STARTS = ('paper', 'identity')


def _chosen_pools(option: str, pools: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    chosen = (pools,) if isinstance(pools, str) else tuple(pools)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
        raise ValueError(
            f'{option}={pools!r} is unfit; give one or more of {", ".join(known)}, each once'
        )
    return chosen


def _whole(option: str, value: int, remedy: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{option}={value!r} is unfit; {remedy}')
    return value


def full_precision(x: Tensor) -> AbstractContextManager:
    """No autocast: it would round the pooled numbers, which are few, to half a type."""
    known = x.device.type in ('cpu', 'cuda')
    return torch.autocast(x.device.type, enabled=False) if known else nullcontext()


class Gate(BaseModule):
    """What both gates share: the weights' range, (0, 1), or (0, 2) from the identity start.

    Attributes:
        gain: 2 with `start='identity'`, where `gain * sigmoid(0) == 1` exactly; else None. A
            buffer, so that a checkpoint of one form does not load silently into the other.
    """

    def __init__(self, start: str, init_cfg: dict | list[dict] | None) -> None:
        super().__init__(init_cfg)
        if start not in STARTS:
            raise ValueError(f'start={start!r} is unknown; choose from {", ".join(STARTS)}')
        self.register_buffer('gain', torch.tensor(2.0) if start == 'identity' else None)

    def forward(self, x: Tensor, pooled: bool = False) -> Tensor:
        """The weights for a feature map, (N, C, H, W), or for what `pool` made of one.

        Returns:
            (N, C, 1, 1) from the channel gate, (N, 1, H, W) from the spatial gate, of the type of
            `x`; computed in float32 under autocast.
        """
        with full_precision(x):
            return self._weigh(x if pooled else self.pool(x)).to(x.dtype)

    def _range(self, logits: Tensor) -> Tensor:
        weights = torch.sigmoid(logits)
        return weights if self.gain is None else self.gain.to(weights.dtype) * weights


class ChannelGate(Gate):
    """M_c(F) = sigmoid(sum over pools of MLP(pool(F))), equation 2: what to attend to.

    Args:
        in_channels: C, at least 1.
        ratio: reduction of the MLP's hidden width, `in_channels // ratio`; 1 to `in_channels`.
        pools: any of 'avg', 'max', 'lp', 'lse'. ('avg',) alone is squeeze-and-excitation.
        mlp_bias: biases in both layers of the MLP.
        act_cfg: activation between its layers.
        start: 'paper', or 'identity' for weights that are exactly 1 at first; see `CBAM`.

    Raises:
        ValueError: an option is outside its range; the message names the remedy.
    """

    def __init__(
        self,
        in_channels: int,
        ratio: int = 16,
        pools: Sequence[str] = ('avg', 'max'),
        mlp_bias: bool = True,
        act_cfg: dict | None = None,
        start: str = 'paper',
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(start, init_cfg)
        _whole('in_channels', in_channels, 'give the channels of the feature map, 1 or more')
        _whole('ratio', ratio, 'give a whole number, 1 or more')
        if ratio > in_channels:
            raise ValueError(
                f'ratio={ratio} leaves no hidden channel of {in_channels}; '
                f'use ratio <= {in_channels}'
            )
        self.pools = _chosen_pools('pools', pools, POOLS)
        hidden = in_channels // ratio
        self.fc1 = nn.Linear(in_channels, hidden, bias=mlp_bias)
        self.act = build_activation_layer(act_cfg or dict(type='ReLU'))
        self.fc2 = nn.Linear(hidden, in_channels, bias=mlp_bias)

    def pool(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> one number per pool and channel, (N, P, C)."""
        return pool_space(x, self.pools)

    def _weigh(self, pooled: Tensor) -> Tensor:
        logits = self.fc2(self.act(self.fc1(pooled.to(self.fc1.weight.dtype)))).sum(1)
        return self._range(logits.to(pooled.dtype))[:, :, None, None]

    def reset_parameters(self) -> None:
        """The authors' start: PyTorch's default for the weights, biases at 0.

        For the identity the last layer's weights are 0 as well.
        """
        for layer in (self.fc1, self.fc2):
            layer.reset_parameters()
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if self.gain is not None:
            nn.init.zeros_(self.fc2.weight)


class SpatialGate(Gate):
    """M_s(F) = sigmoid(norm(conv([max(F); avg(F)]))), equation 3: where to attend to.

    Args:
        in_channels: C, at least 1.
        kernel_size: K, odd.
        spatial_pools: pools along the channels, in the order in which the convolution reads
            them, any of 'avg', 'max', 'lp', 'lse'; or 'conv', a learned 1x1 convolution to one
            map (table 2 of the paper).
        norm_cfg: norm after the convolution, or None. Where a batch has one value in all, no
            batch statistics exist and BatchNorm uses its running ones.
        conv_bias: a bias in the KxK convolution.
        norm_eval: a BatchNorm keeps its running statistics in training. This alone decides, not
            the host's option of that name, which would stop a new norm at its random start.
        start: 'paper', or 'identity' for weights that are exactly 1 at first; see `CBAM`.

    Raises:
        ValueError: an option is outside its range; the message names the remedy.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 7,
        spatial_pools: Sequence[str] | str = ('max', 'avg'),
        norm_cfg: dict | None = dict(type='BN', momentum=0.01),  # noqa: B006 (mmcv's idiom)
        conv_bias: bool = False,
        norm_eval: bool = False,
        start: str = 'paper',
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(start, init_cfg)
        self.norm_eval = norm_eval
        _whole('in_channels', in_channels, 'give the channels of the feature map, 1 or more')
        _whole('kernel_size', kernel_size, 'give an odd number such as 3 or 7')
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size={kernel_size} is even; use {kernel_size + 1}')
        if spatial_pools in ('conv', ('conv',), ['conv']):
            self.spatial_pools = ('conv',)
            self.summary = nn.Conv2d(in_channels, 1, 1)
        else:
            self.spatial_pools = _chosen_pools('spatial_pools', spatial_pools, POOLS)
            self.summary = None
        self.conv = _Conv(
            len(self.spatial_pools), 1, kernel_size, padding=kernel_size // 2, bias=conv_bias
        )
        self.norm = nn.Identity() if norm_cfg is None else build_norm_layer(norm_cfg, 1)[1]
        if start == 'identity' and norm_cfg and getattr(self.norm, 'weight', None) is None:
            raise ValueError(
                f"norm_cfg={norm_cfg} has no weight, which start='identity' sets to 0; give it "
                'affine=True, or norm_cfg=None'
            )

    def pool(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> one map per pool, (N, P, H, W)."""
        if self.summary is None:
            return pool_channels(x, self.spatial_pools)
        return self.summary(x.to(self.summary.weight.dtype))

    def _weigh(self, pooled: Tensor) -> Tensor:
        logits = self._normalise(self.conv(pooled.to(self.conv.weight.dtype)))
        return self._range(logits.to(pooled.dtype))

    def _normalise(self, logits: Tensor) -> Tensor:
        norm = self.norm
        # Hosts put every BatchNorm below them in eval mode; mmcv's MMSyncBN is none by its class.
        if getattr(norm, 'running_mean', None) is not None:
            norm.training = self.training and not self.norm_eval
        alone = isinstance(norm, _BatchNorm) and not isinstance(norm, nn.SyncBatchNorm)
        if norm.training and alone and logits.numel() <= 1:
            return F.batch_norm(
                logits, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        return norm(logits)

    def reset_parameters(self) -> None:
        """The authors' start: Kaiming convolutions, the norm's weight at 0, so the sigmoid at 1/2.

        Without a norm, the identity needs the KxK convolution at 0.
        """
        for conv in (self.summary, self.conv):
            if conv is not None:
                nn.init.kaiming_normal_(conv.weight, mode='fan_out')
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        if getattr(self.norm, 'weight', None) is not None:
            nn.init.zeros_(self.norm.weight)
            nn.init.zeros_(self.norm.bias)
        elif self.gain is not None:
            nn.init.zeros_(self.conv.weight)


class _Conv(nn.Conv2d):
    """A convolution whose gradient is fast for few maps on a CPU; see `efficient.convolve`."""

    memory_efficient = False

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        trains = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
        if not self.memory_efficient or not trains or not x.is_cpu or efficient.unfit(x):
            return super()._conv_forward(x, weight, bias)
        y = efficient.convolve(x, weight)
        return y if bias is None else y + bias[:, None, None]


def _allow_compilations() -> None:
    """All CBAMs share a code object, of which torch compiles 8 forms and runs the rest as it is.

    A ResNet's four widths, in training, in inference and behind frozen stages, are 12.
    """
    config = torch._dynamo.config
    name = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'
    setattr(config, name, max(getattr(config, name), 64))


def _product(x: Tensor, *weights: Tensor) -> Tensor:
    for one in weights:
        x = x * one.to(x.dtype)
    return x


def _pool_product(gate: nn.Module, x: Tensor, *weights: Tensor) -> Tensor:
    return gate.pool(_product(x, *weights))


def _trained(module: nn.Module) -> dict[str, Tensor]:
    """The tensors with gradient by name; FSDP puts views in the parameters' stead."""
    return {
        f'{path}.{name}'.lstrip('.'): value
        for path, part in module.named_modules()
        for name, value in (*part._parameters.items(), *vars(part).items())
        if isinstance(value, Tensor) and value.requires_grad
    }


@contextmanager
def _parameters_alone(module: nn.Module) -> Iterator[None]:
    """Without FSDP's attributes of the parameters' names, which hide what a call puts there."""
    hidden = [
        (vars(part), name, vars(part).pop(name))
        for part in module.modules()
        for name in vars(part).keys() & part._parameters.keys()
    ]
    try:
        yield
    finally:
        for attributes, name, value in hidden:
            attributes[name] = value


@MODELS.register_module(name=['CBAM', 'CBAMDet'])
class CBAM(BaseModule):
    """Channel and spatial attention on a feature map, section 3 of the paper.

    With its defaults a ResNet-50 classifier has the 28,089,624 parameters of the authors' code.
    `CBAMDet` is the same class under a name for scopes that have a CBAM of their own (mmyolo).

    Example, in any MMDetection config with a bottleneck ResNet::

        custom_imports = dict(imports=['cbam_det'])
        plugins = [dict(cfg=dict(type='CBAM', start='identity'), after='layer*.*.bn3')]
        model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=plugins))

    Args:
        in_channels: C; the host fills it in.
        ratio: the channel gate's reduction, 1 to `in_channels`.
        pools: the channel gate's pools, any of 'avg', 'max', 'lp', 'lse'.
        order: 'channel-spatial' (the paper's choice), 'spatial-channel', 'parallel' (both gates
            read the input: `x * M_c(x) * M_s(x)`), 'channel' or 'spatial' alone;
            the other gate's options then have no effect.
        kernel_size: the spatial gate's kernel, odd.
        spatial_pools: the spatial gate's pools in the order read, or 'conv'; see `SpatialGate`.
        mlp_bias: biases in the channel gate's MLP.
        act_cfg: activation in that MLP, ReLU unless given.
        norm_cfg: norm in the spatial gate, or None.
        conv_bias: a bias in the spatial gate's convolution.
        start: 'paper' starts both gates near 1/2, as the authors do. 'identity' makes both gates
            `2 * sigmoid`, exactly 1 at first: a pretrained network keeps its features to the bit,
            and trains from there. See docs/identity.md.
        norm_eval: the spatial gate's BatchNorm keeps its statistics in training, whatever the
            host's option of that name says.
        frozen: the module does not train, its norm included.
        memory_efficient: keep one feature map for the backward pass and recompute the rest, faster
            than autograd on the equations (memory_efficient.py; pools 'lp', 'lse' and 'conv' by
            checkpointing); without a backward pass make one map, the output ('lse' makes a second),
            or none where `inplace` (see `forward`) lets the output take the input's place.
            False leaves all to autograd, for a second derivative and for hooks on the gates that
            bring parameters of their own, which get no gradient otherwise. Either way such hooks
            see pooled values; `gates` returns the weights for a map.
        compile: let `torch.compile` fuse the equations, the faster way on a GPU; the first
            passes take a minute. Copies of the module are not compiled.
        init_cfg: MMEngine's initialisation, applied over the start.

    Raises:
        ValueError: an option is outside its range; the message names the value and the remedy.
    """

    _abbr_ = 'cbam'  # mmcv names the child of the host by this: layer1.0.cbam, the authors' path

    def __init__(
        self,
        in_channels: int,
        ratio: int = 16,
        pools: Sequence[str] = ('avg', 'max'),
        order: str = 'channel-spatial',
        kernel_size: int = 7,
        spatial_pools: Sequence[str] | str = ('max', 'avg'),
        mlp_bias: bool = True,
        act_cfg: dict | None = None,
        norm_cfg: dict | None = dict(type='BN', momentum=0.01),  # noqa: B006 (mmcv's idiom)
        conv_bias: bool = False,
        start: str = 'paper',
        norm_eval: bool = False,
        frozen: bool = False,
        memory_efficient: bool = True,
        compile: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if order not in ORDERS:
            raise ValueError(f'order={order!r} is unknown; choose from {", ".join(ORDERS)}')
        self.order, self.in_channels = order, in_channels
        self.channel_gate = self.spatial_gate = None
        if order != 'spatial':
            self.channel_gate = ChannelGate(in_channels, ratio, pools, mlp_bias, act_cfg, start)
        if order != 'channel':
            self.spatial_gate = SpatialGate(
                *(in_channels, kernel_size, spatial_pools, norm_cfg, conv_bias),
                norm_eval=norm_eval or frozen,
                start=start,
            )
        switches = dict(
            frozen=frozen, norm_eval=norm_eval, memory_efficient=memory_efficient, compile=compile
        )
        for option, value in switches.items():
            if not isinstance(value, bool):
                raise ValueError(f'{option}={value!r} is unfit; give True or False')
        self.frozen, self.memory_efficient = frozen, memory_efficient
        self.reset_parameters()
        if compile:
            _allow_compilations()
            self.compile(dynamic=True)
        if frozen:
            self.requires_grad_(False)

    def extra_repr(self) -> str:
        """What the children do not show."""
        compiled = self._compiled_call_impl is not None
        return f'order={self.order!r}, memory_efficient={self.memory_efficient}, compile={compiled}'

    @property
    def memory_efficient(self) -> bool:
        """The option of that name; it can be changed."""
        return self._memory_efficient

    @memory_efficient.setter
    def memory_efficient(self, memory_efficient: bool) -> None:
        self._memory_efficient = memory_efficient
        if self.spatial_gate is not None:
            self.spatial_gate.conv.memory_efficient = memory_efficient

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), the input times its weights.

        Args:
            inplace: nobody else needs `x`: where there is no backward pass, the output may take its
                place, which saves a map. `WithPlugins` says so after norms and convolutions. Order
                'parallel', `memory_efficient=False`, compiled code and exports pass it over.

        Raises:
            ValueError: the input is no such map, or has not the module's C.
        """
        traced = torch.jit.is_tracing()  # a size is no number then
        if x.dim() != 4 or (not traced and x.shape[1] != self.in_channels):
            raise ValueError(
                f'the input of this CBAM has the shape {tuple(x.shape)}; give it (N, '
                f'{self.in_channels}, H, W), or build it with the in_channels of the map'
            )
        with full_precision(x):
            if not self.memory_efficient or efficient.unfit(x):
                return self._equations(x)
            if not torch.is_grad_enabled() or not (x.requires_grad or _trained(self)):
                return self._equations(x, in_place=True, spare=inplace)
            gates = self._bound_gates(x)
            if efficient.POOLS.issuperset(pool for gate in gates for pool in gate.pools):
                return efficient.attend(x, gates, self.order == 'parallel')
            return self._checkpointed(x)

    def _equations(self, x: Tensor, in_place: bool = False, spare: bool = False) -> Tensor:
        """Equations 2 and 3 step by step, each product in the place of the one before if wanted,
        the first in that of `x` if that is spare; never where a hook of a gate brings a gradient.
        """
        y = x
        parallel = self.order == 'parallel'  # whose second gate reads x too
        ours = spare and not parallel
        for gate in self._sequence():
            pooled = gate.pool(x if parallel else y)
            weights = gate(pooled, pooled=True)
            if in_place and ours and not (y.requires_grad or weights.requires_grad):
                y = y.mul_(weights.to(y.dtype))
            else:
                y = _product(y, weights)
            ours = True
        return y

    def _checkpointed(self, x: Tensor) -> Tensor:
        """The equations with `x` alone kept: each step begins at it, in the backward pass anew."""
        call = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        weights = []
        for gate in self._sequence():
            before = () if self.order == 'parallel' else weights
            weights.append(gate(call(_pool_product, gate, x, *before), pooled=True))
        return call(_product, x, *weights)

    def _bound_gates(self, x: Tensor) -> list[efficient.Gate]:
        """The gates for `efficient.attend`, bound to the size of `x`."""
        size = x.shape[2:]

        def weigh(gate: Gate, pooled: Tensor, parameters: dict[str, Tensor]) -> Tensor:
            if gate is self.spatial_gate:
                pooled = pooled.unflatten(2, size)
            with _parameters_alone(gate):
                return functional_call(gate, parameters, (pooled,), dict(pooled=True)).flatten(1)

        return [
            efficient.Gate(2, gate.pools, partial(weigh, gate), _trained(gate))
            if gate is self.channel_gate
            else efficient.Gate(1, gate.spatial_pools, partial(weigh, gate), _trained(gate))
            for gate in self._sequence()
        ]

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """The weights that `forward` multiplies `x` with, by name and in their order.

        Returns:
            'channel' (N, C, 1, 1) and 'spatial' (N, 1, H, W), as far as the order has them;
            `forward(x)` equals `x` times them.
        """
        weights = {}
        for gate in self._sequence():
            name = 'channel' if gate is self.channel_gate else 'spatial'
            weights[name] = gate(x)
            if self.order != 'parallel':
                x = x * weights[name]
        return weights

    def _sequence(self) -> list[nn.Module]:
        gates = [self.channel_gate, self.spatial_gate]
        if self.order == 'spatial-channel':
            gates.reverse()
        return [gate for gate in gates if gate is not None]

    def reset_parameters(self) -> None:
        """Set the start that the option `start` names."""
        for gate in self._sequence():
            gate.reset_parameters()

    def init_weights(self) -> None:
        """Set the start, then `init_cfg`; undoes what a host's `init_cfg` wrote here."""
        if not self.is_init:
            self.reset_parameters()
        super().init_weights()
