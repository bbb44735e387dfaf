"""Comparisons paired by seeds: studies, their runs, records and verdicts, and the cost of runs."""

from ..utils.environment import require_stack

require_stack()
