"""Hooks of training."""

from .audit import AttentionAudit
from .checkpoints import WholeCheckpoints
from .losses import FiniteLosses
from .maps import AttentionMaps
from .resume import ExactResume
from .stop import StopSignals

__all__ = [
    'AttentionAudit',
    'AttentionMaps',
    'ExactResume',
    'FiniteLosses',
    'StopSignals',
    'WholeCheckpoints',
]
