"""Stop a run whose loss is not finite, and save the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor

from ...utils.errors import InputError, first_few
from ...utils.files import atomic_write
from .stop_signals_hook import any_process

REMEDY = (
    'check these images and their boxes; lower the learning rate, lengthen the warm-up or clip the '
    'gradients (optim_wrapper.clip_grad.max_norm), in mixed precision set '
    "optim_wrapper.dtype='bfloat16'; then --resume from the last checkpoint"
)


@HOOKS.register_module()
class FiniteLossesHook(Hook):
    """Stops a run whose loss is NaN or infinite, before it is logged or saved.

    `CheckedRunner` adds it to every run; `--cfg-options default_hooks.finite_losses=None` turns it
    off. mmdet's CheckInvalidLossHook checks only every 50 iterations and does not save the batch.
    Infinite gradients are ignored, since mixed precision uses them to adjust its loss scale.

    The batch is saved as `nonfinite_iter_N.pth` in the work_dir. `torch.load` returns a dictionary
    with `losses`, `batch` (the images before the model's preprocessor, the boxes and the paths) and
    `iter`.

    Raises:
        InputError: a loss is not finite, after its iteration; or a parameter, a buffer or a moving
            average is not finite, before a checkpoint is written.
    """

    priority = 'VERY_HIGH'  # before hooks that log or save

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: dict | None = None,
    ) -> None:
        """Check the losses."""
        losses = {
            key: value
            for key, value in (outputs or {}).items()
            if 'loss' in key and torch.is_tensor(value)  # those that MMEngine sums
        }
        nonfinite = [key for key, value in losses.items() if not value.isfinite().all()]
        if not any_process(bool(nonfinite)):
            return
        step = f'iteration {runner.iter + 1}, epoch {runner.epoch + 1}'
        if not nonfinite:
            raise InputError(f'the loss of another process is not finite ({step})')
        batch = plain(data_batch)
        rank = f'_process_{get_rank()}' if get_world_size() > 1 else ''
        path = Path(runner.work_dir) / f'nonfinite_iter_{runner.iter + 1}{rank}.pth'
        with atomic_write(path) as part:
            torch.save(dict(losses=plain(losses), batch=batch, iter=runner.iter + 1), part)
        values = ', '.join(f'{key} {losses[key].float().mean().item():g}' for key in nonfinite)
        raise InputError(
            f'the loss is not finite ({values}; {step}) on {first_few(image_paths(batch), 8)}; '
            f'the batch is saved in {path}; {REMEDY}'
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the weights, which a gradient can damage although the loss is finite."""
        states = {'': checkpoint['state_dict']}
        for hook in runner.hooks:  # EMAHook adds its weights to the checkpoint only later
            if isinstance(hook, EMAHook):
                states['ema_state_dict '] = hook.ema_model.state_dict()
        nonfinite = [
            f'{prefix}{key}'
            for prefix, state in states.items()
            for key, value in state.items()
            if torch.is_tensor(value) and not value.isfinite().all()
        ]
        if nonfinite:
            raise InputError(
                f'{len(nonfinite)} tensors of the weights are not finite ({first_few(nonfinite)}; '
                f'iteration {runner.iter}), so no checkpoint is written; clip the gradients '
                '(optim_wrapper.clip_grad.max_norm) or lower the learning rate, and --resume; for '
                'a model with such tensors on purpose set default_hooks.finite_losses=None'
            )


def plain(value: object) -> object:
    """Convert a batch to tensors, numbers, texts, lists and dictionaries, which load safely."""
    if isinstance(value, BaseDataElement):
        value = value.to_dict()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    value = getattr(value, 'tensor', value)  # mmdet's boxes
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biuf':
        value = torch.from_numpy(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        return value.detach().cpu()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def image_paths(batch: object) -> list[str]:
    """The `img_path` of each sample in a converted batch, in order."""
    if isinstance(batch, dict):
        paths = [batch['img_path']] if isinstance(batch.get('img_path'), str) else []
        return paths + [path for item in batch.values() for path in image_paths(item)]
    return [path for item in batch for path in image_paths(item)] if isinstance(batch, list) else []
