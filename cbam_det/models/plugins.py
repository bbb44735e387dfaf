"""The plugins for configs: CBAM with mmcv's options, and timm's attention modules."""

from __future__ import annotations

import copy
from typing import Any

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.errors import InputError, near_hint
from . import layers
from .layers import checks
from .layers.torch_private import is_compiled

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
    """`layers.CBAM` for configs; `layers.CBAM` describes the options.

    It is also registered as `CBAMDet`, for scopes that have another CBAM (mmyolo).

    Example, in any MMDetection config::

        custom_imports = dict(imports=['cbam_det'])
        plugins = [dict(cfg=dict(type='CBAM'))]
        model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=plugins))

    Args:
        in_channels: C; `WithPlugins` and mmdet fill it in.
        ratio: as in `layers.CBAM`.
        act_cfg: mmcv's config of the activation in the channel gate's MLP.
        norm_cfg: mmcv's config of the norm in the spatial gate, or None.
        compile: compile the module by `torch.compile`, which is faster on a GPU; the first passes
            take a minute. Copies of the module are not compiled. In your own programs call
            `cbam_det.models.compat.allow_compilations` first.
        init_cfg: MMEngine's initialisation, applied after `start`.
        options: further options of `layers.CBAM`, except `act_layer` and `norm_layer`.

    Raises:
        ValueError: an option is outside its range; the message names the value and the remedy.
    """

    _abbr_ = 'cbam'  # mmcv names the attribute by it: layer1.0.cbam, as in the authors' code

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
        """Set the start, then apply `init_cfg`; undoes what the backbone's `init_cfg` wrote."""
        if not self.is_init:
            self.reset_parameters()
        super().init_weights()

    def extra_repr(self) -> str:
        """The options that the children do not show."""
        return f'{super().extra_repr()}, compile={is_compiled(self)}'


@MODELS.register_module()
class TimmAttention(nn.Module):
    """An attention module of `timm.layers.create_attn`, for comparisons.

    Example: `plugins=[dict(cfg=dict(type='TimmAttention', name='eca'))]`. timm initialises it; most
    of them change the features of a pretrained network at the start.

    Args:
        in_channels: C; `WithPlugins` and mmdet fill it in.
        name: timm's name, one of `TIMM_ATTENTIONS`.
        options: the options of timm's module.

    Raises:
        InputError: timm is not installed, has no such attention, or rejects C or the options.
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
            raise InputError(
                f"name={name!r} of TimmAttention is not a text; give a name such as 'eca'"
            )
        try:
            self.attention = create_attn(name, in_channels, **options)
        except (AssertionError, TypeError) as error:
            hint = ''
            if name not in TIMM_ATTENTIONS:
                names = ', '.join(TIMM_ATTENTIONS)
                hint = f'; choose from {names}{near_hint(name, TIMM_ATTENTIONS)}'
            raise InputError(
                f'timm cannot build the attention {name!r} for {in_channels} channels '
                f'({error or "rejected"}){hint}'
            ) from None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.attention(x)
