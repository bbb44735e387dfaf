"""Paired comparisons with seeds: studies, their runs, records and verdicts, and what runs cost."""

from ..utils.environment import require_stack

require_stack()
