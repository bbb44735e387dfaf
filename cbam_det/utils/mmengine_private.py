"""Private names of MMEngine that the package uses because MMEngine has no public ones for them.

tests/utils/test_private_names.py fails if a version of MMEngine lacks one of them.
"""

from __future__ import annotations

from typing import TypeAlias

from mmengine.config import DictAction
from mmengine.dataset import InfiniteSampler
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn

ParamScheduler: TypeAlias = _ParamScheduler


def is_training(runner: Runner) -> bool:
    """Whether `runner.train()` was called; the public `train_loop` would build the loop."""
    return isinstance(runner._train_loop, BaseLoop)


def has_epochs(runner: Runner) -> bool:
    """Whether the training counts epochs, not only iterations."""
    return not isinstance(runner._train_loop, IterBasedTrainLoop)


def is_resumed(runner: Runner) -> bool:
    """Whether the run resumes from a checkpoint."""
    return runner._resume


def loaded_checkpoint(runner: Runner) -> str | None:
    """The path or URL in the option `load_from`, or None."""
    return runner._load_from


def accumulated_iterations(wrapper: OptimWrapper) -> int:
    """How many iterations add their gradients to one update; 1 for wrappers without that option."""
    return getattr(wrapper, '_accumulative_counts', 1)


def restart_indices(sampler: InfiniteSampler) -> None:
    """Make a sampler start again with the first index of this process."""
    sampler.indices = sampler._indices_of_rank()


def load_weights(model: nn.Module, checkpoint: dict) -> None:
    """Load the weights of a checkpoint that is already read; missing keys are only logged."""
    _load_checkpoint_to_model(model, checkpoint)


def parse_scalar(text: str) -> int | float | bool | str | None:
    """A number, True, False, None or a text, as MMEngine's `DictAction` reads it."""
    return DictAction._parse_int_float_bool(text)
