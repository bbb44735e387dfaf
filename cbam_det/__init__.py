"""CBAM for object detection with MMDetection 3.x; importing it registers its modules.

The import takes as long as that of mmdet, whose classes ours extend. The tools therefore parse
their arguments and look for files before it.

It also makes MMEngine read files of weights as weights alone (`checkpoints.files.guard_mmengine`),
and warn where the attention of a model and of its weights differ (`checkpoints.attention`).
Nothing else of another library is changed by the import; what is fixed in mmdet is fixed where our
modules or `CheckedRunner` are built (`models.compat`).

Where a library of the stack is missing or broken nothing is registered, with a warning, and the
parts that do not need it can be imported all the same. A name that needs it raises an ImportError
which says what to do.
"""

import warnings

from .utils.hidden_modules import hidden_modules

if _hidden := hidden_modules():  # told first, as the imports below may fail by it
    warnings.warn(_hidden, stacklevel=2)

from .utils.environment import MMENGINE, stack_error
from .version import __version__

__all__ = [
    'CBAM',
    'AtomicCheckpointHook',
    'AttentionAuditHook',
    'AttentionMapsHook',
    'BFloat16OptimWrapper',
    'CPUAmpOptimWrapper',
    'ChannelGate',
    'CheckedRunner',
    'ExactResumeHook',
    'FastCocoMetric',
    'FiniteLossesHook',
    'MobileNetV1',
    'SpatialGate',
    'StairNet',
    'StopSignalsHook',
    'TimmAttention',
    'WithPlugins',
    '__version__',
]

_error = stack_error()
if _error is None:
    from .models.compat import import_mmdet

    import_mmdet()
    from .checkpoints.attention import report_attention_of_loaded_weights
    from .checkpoints.files import guard_mmengine

    guard_mmengine()
    report_attention_of_loaded_weights()
    from .engine.hooks import (
        AtomicCheckpointHook,
        AttentionAuditHook,
        AttentionMapsHook,
        ExactResumeHook,
        FiniteLossesHook,
        StopSignalsHook,
    )
    from .engine.optim_wrapper import BFloat16OptimWrapper, CPUAmpOptimWrapper
    from .engine.runner import CheckedRunner
    from .evaluation.metrics import FastCocoMetric
    from .models.backbones import MobileNetV1
    from .models.insertion import WithPlugins
    from .models.layers import ChannelGate, SpatialGate
    from .models.necks import StairNet
    from .models.plugins import CBAM, TimmAttention
elif MMENGINE.version:
    warnings.warn(f'cbam_det cannot register its modules in MMEngine: {_error}', stacklevel=2)


def __getattr__(name: str) -> object:
    if _error is not None and name in __all__:
        raise ImportError(_error)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
