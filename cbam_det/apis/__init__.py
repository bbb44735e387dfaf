"""Functions for programs: inference and export."""

from ..utils.environment import require_stack

require_stack()
