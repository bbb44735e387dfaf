"""CBAM for object detection with MMDetection 3.x; importing it registers the plugin `CBAM`."""

import sys
from itertools import pairwise

from .environment import require_stack
from .version import __version__

__all__ = ['__version__']

# The doctor has to start in an environment in which nothing else does.
if ('-m', 'cbam_det.doctor') not in pairwise(sys.orig_argv):
    require_stack()
    from .attention import CBAM, ChannelGate, SpatialGate
    from .insertion import WithPlugins

    __all__ += ['CBAM', 'ChannelGate', 'SpatialGate', 'WithPlugins']
