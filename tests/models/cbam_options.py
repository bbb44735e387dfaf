"""Options of CBAM for parametrised tests, and modules with random weights."""

from __future__ import annotations

import itertools

from torch import nn

from cbam_det import CBAM
from cbam_det.models.layers import ORDERS, POOLS


def randomised(**options) -> CBAM:
    """A float64 module with random parameters and statistics, so that no zero hides an error."""
    module = CBAM(**{'in_channels': 8, 'ratio': 2, 'start': 'paper', **options}).double()
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.2, 1.0)
            tensor.data -= 0.5 * (tensor.dim() > 1)
    return module


SUBSETS = [subset for size in range(1, 5) for subset in itertools.combinations(POOLS, size)] + [
    ('max', 'avg')
]
OPTIONS = [
    *[dict(order=order) for order in ORDERS],
    *[dict(order=order, spatial_pools='conv', kernel_size=3) for order in ORDERS],
    *[dict(pools=pools) for pools in SUBSETS],
    *[dict(spatial_pools=pools) for pools in SUBSETS],
    *[dict(kernel_size=size) for size in (1, 3, 5, 11)],
    *[dict(ratio=ratio) for ratio in (1, 3, 8)],
    dict(mlp_bias=False),
    dict(conv_bias=True),
    dict(norm_cfg=None),
    dict(norm_cfg=None, conv_bias=True, mlp_bias=False, spatial_pools=('avg', 'max')),
]
