"""How a run goes: the runner, its checks and its hooks."""

from ..utils.environment import require_stack

require_stack()
