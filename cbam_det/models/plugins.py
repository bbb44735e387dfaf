"""What a config can insert into a detector: CBAM with mmcv's options, and timm's attentions."""

from __future__ import annotations

import copy
from typing import Any

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.config import near_hint
from ..utils.errors import InputError
from . import layers
from .layers import checks

# The names of timm.layers.create_attn.
TIMM_ATTENTIONS = (
    'se',
    'ese',
    'eca',
    'ecam',
    'ceca',
    'ge',
    'gc',
    'gca',
    'cbam',
    'lcbam',
    'coord',
    'scoord',
    'ela',
    'strip',
    'sk',
    'splat',
    'lambda',
    'bottleneck',
    'halo',
    'nl',
    'bat',
)


@MODELS.register_module(name=['CBAM', 'CBAMDet'])
class CBAM(layers.CBAM, BaseModule):
    """`layers.CBAM`, whose options are described there, for configs.

    `CBAMDet` is the same class under a name for scopes that have a CBAM of their own (mmyolo).

    Example, in any MMDetection config::

        custom_imports = dict(imports=['cbam_det'])
        plugins = [dict(cfg=dict(type='CBAM'))]
        model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=plugins))

    Args:
        in_channels: C; the host fills it in.
        ratio: as in `layers.CBAM`.
        act_cfg: mmcv's config of the activation in the channel gate's MLP.
        norm_cfg: mmcv's config of the norm in the spatial gate, or None.
        compile: let `torch.compile` fuse the equations, the faster way on a GPU; the first
            passes take a minute. Copies of the module are not compiled. Outside of our tools call
            `cbam_det.models.compat.allow_compilations` first.
        init_cfg: MMEngine's initialisation, applied over the start.
        options: those of `layers.CBAM` but for `act_layer` and `norm_layer`.

    Raises:
        ValueError: an option is outside its range; the message names the value and the remedy.
    """

    _abbr_ = 'cbam'  # mmcv names the child of the host by this: layer1.0.cbam, the authors' path

    def __init__(
        self,
        in_channels: int,
        ratio: int = 16,
        *,
        act_cfg: dict | None = None,
        norm_cfg: dict | None = dict(type='BN', momentum=0.01),  # noqa: B006 (mmcv's idiom)
        compile: bool = False,
        init_cfg: dict | list[dict] | None = None,
        **options: Any,
    ) -> None:
        checks.switches(compile=compile)

        def activation() -> nn.Module:
            return build_activation_layer(act_cfg or dict(type='ReLU'))

        def norm(channels: int) -> nn.Module:
            return build_norm_layer(norm_cfg, channels)[1]

        norm_layer = norm if norm_cfg else None
        super().__init__(in_channels, ratio, act_layer=activation, norm_layer=norm_layer, **options)
        self.init_cfg = copy.deepcopy(init_cfg)
        if compile:
            self.compile(dynamic=True)

    def init_weights(self) -> None:
        """Set the start, then `init_cfg`; undoes what a host's `init_cfg` wrote here."""
        if not self.is_init:
            self.reset_parameters()
        super().init_weights()

    def extra_repr(self) -> str:
        """The options that the children do not show."""
        return f'{super().extra_repr()}, compile={self._compiled_call_impl is not None}'


@MODELS.register_module()
class TimmAttention(nn.Module):
    """Any attention of `timm.layers.create_attn`, to compare with.

    Example: `plugins=[dict(cfg=dict(type='TimmAttention', name='eca'))]`. It starts as timm starts
    it, which for most changes the features of a pretrained network.

    Args:
        in_channels: C; the host fills it in.
        name: timm's name, of `TIMM_ATTENTIONS`.
        options: those of timm's module.

    Raises:
        InputError: timm is not installed, knows no such attention, or refuses C or the options.
    """

    _abbr_ = 'attention'

    def __init__(self, in_channels: int, name: str, **options: Any) -> None:
        super().__init__()
        try:
            from timm.layers import create_attn
        except ImportError:
            raise InputError(
                'TimmAttention needs timm, which is not installed: pip install timm==1.0.31'
            ) from None
        if not isinstance(name, str):
            raise InputError(f"name={name!r} of TimmAttention is no name; give one such as 'eca'")
        try:
            self.attention = create_attn(name, in_channels, **options)
        except (AssertionError, TypeError) as error:
            hint = ''
            if name not in TIMM_ATTENTIONS:
                hint = f'{near_hint(name, TIMM_ATTENTIONS)}; it has {", ".join(TIMM_ATTENTIONS)}'
            raise InputError(
                f'timm builds no attention {name!r} for {in_channels} channels '
                f'({error or "refused"}){hint}'
            ) from None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.attention(x)
