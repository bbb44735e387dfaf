"""Hooks of training."""

from .attention_audit_hook import AttentionAudit
from .attention_maps_hook import AttentionMaps
from .checkpoint_hook import WholeCheckpoints
from .exact_resume_hook import ExactResume
from .finite_losses_hook import FiniteLosses
from .stop_signals_hook import StopSignals

__all__ = [
    'AttentionAudit',
    'AttentionMaps',
    'ExactResume',
    'FiniteLosses',
    'StopSignals',
    'WholeCheckpoints',
]
