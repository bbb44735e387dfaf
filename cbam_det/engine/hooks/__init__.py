"""Hooks for trainings and tests."""

from .attention_audit_hook import AttentionAuditHook
from .attention_maps_hook import AttentionMapsHook
from .checkpoint_hook import AtomicCheckpointHook
from .detection_count_hook import DetectionCountHook
from .exact_resume_hook import ExactResumeHook
from .finite_losses_hook import FiniteLossesHook
from .run_report_hook import RunReportHook
from .stop_signals_hook import StopSignalsHook
from .terminal_hook import TerminalHook

__all__ = [
    'AtomicCheckpointHook',
    'AttentionAuditHook',
    'AttentionMapsHook',
    'DetectionCountHook',
    'ExactResumeHook',
    'FiniteLossesHook',
    'RunReportHook',
    'StopSignalsHook',
    'TerminalHook',
]
