"""CBAM for object detection with MMDetection 3.x; importing it registers the plugin `CBAM`."""

import sys

from .environment import require_stack
from .version import __version__

__all__ = ['__version__']

# The doctor has to start in an environment in which nothing else does.
if sys.orig_argv[1:3] != ['-m', 'cbam_det.doctor']:
    require_stack()
    from .attention import CBAM, ChannelGate, SpatialGate

    __all__ += ['CBAM', 'ChannelGate', 'SpatialGate']
