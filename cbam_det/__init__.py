"""CBAM for object detection with MMDetection 3.x; importing it registers its modules."""

import sys
from itertools import pairwise

from .environment import import_mmdet, require_stack
from .version import __version__

__all__ = ['__version__']

# The doctor has to start in an environment in which nothing else does.
if ('-m', 'cbam_det.doctor') not in pairwise(sys.orig_argv):
    require_stack()
    import_mmdet()
    from .attention import CBAM, ChannelGate, SpatialGate
    from .backbones import MobileNetV1
    from .evaluation import FastCocoMetric
    from .hooks import (
        AttentionAudit,
        AttentionMaps,
        ExactResume,
        FiniteLosses,
        StopSignals,
        WholeCheckpoints,
    )
    from .insertion import WithPlugins
    from .necks import StairNet
    from .optim import CPUAmpOptimWrapper

    __all__ += ['CBAM', 'AttentionAudit', 'AttentionMaps', 'CPUAmpOptimWrapper', 'ChannelGate']
    __all__ += ['ExactResume', 'FiniteLosses', 'StopSignals', 'WholeCheckpoints']
    __all__ += ['FastCocoMetric', 'MobileNetV1', 'SpatialGate', 'StairNet', 'WithPlugins']
