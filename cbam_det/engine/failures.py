"""Explain faults of the machine in the middle of a run, with a remedy."""

from __future__ import annotations

import errno
import re
import traceback
from pathlib import Path

import torch
from mmengine.config import Config

from ..models.channels_last import REMEDY
from ..utils.config import CBAMS, kind_of, walk
from ..utils.errors import InputError
from ..utils.installation import tool_command
from ..utils.options import cfg_options
from ..utils.records import last_checkpoint

FULL = ('ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS')  # only writing raises these
REMEDIES = {
    'ENOENT': ('read', 'restore the file'),
    'EIO': ('read or write', 'fix the disk or its connection'),
    **dict.fromkeys(('EACCES', 'EPERM'), ('read or write', 'give your user permission for it')),
    **dict.fromkeys((*FULL, 'writer'), ('write', 'free some space or fix the disk')),
}
DISK = {getattr(errno, name): name for name in REMEDIES if hasattr(errno, name)}
NEEDS_CONTIGUOUS = 'view size is not compatible'  # of torch's `view` of a map in channels_last
# torch's message of the signal that ended a worker; another error may have it as its cause.
KILLED = re.compile(r'DataLoader worker \(pid \d+\) is killed by signal: (Bus error|Killed)')
# mmdet's backbones with the option `with_cp`.
CHECKPOINTED = re.compile(r'Res(Net|NeXt|NeSt|2Net)|RegNet|HRNet|MobileNetV2|EfficientNet|Swin')


def explain(error: Exception, cfg: Config, work_dir: str | None) -> InputError | None:
    """Explain a fault of the disk, a broken image, a lack of memory (also in a loader's worker), or
    a model that cannot be in channels_last; None for other errors.

    Args:
        error: the exception of the run.
        cfg: its merged config, for the current values of the options that take memory.
        work_dir: the folder with the last checkpoint of a training, None for a test.
    """
    lines = str(error).strip().splitlines() or ['']
    # A worker of a loader passes its traceback on as text, with the error in the last line.
    cause = f'{type(error).__name__}: {lines[0]}'.rstrip(': ')
    if 'in DataLoader worker' in lines[0]:
        cause = lines[-1]
    cause = cause[:200]
    hint = resume_hint(work_dir)
    if _is_out_of_memory(error):
        options = memory_options(cfg, training=work_dir is not None)
        return InputError(f'out of memory ({cause}); options that need less: {options}')
    if killed := KILLED.search(str(error)) or KILLED.search(str(error.__cause__)):
        remedy = _worker_remedy(killed[1], cfg, training=work_dir is not None)
        return InputError(f'{killed[0]}: {remedy}, then {hint}')
    if fault := _disk_fault(error, lines[-1]):
        name, file = fault
        action, remedy = REMEDIES[name]
        target = f' {file}' if file else ''
        return InputError(f'the run could not {action}{target} ({cause}); {remedy}, then {hint}')
    if image := re.search('failed to load image: (.+)', lines[-1]):  # mmcv's LoadImageFromFile
        return InputError(
            f'the image {image[1]} cannot be decoded; list all such images with '
            f'{tool_command("check-data", "CONFIG")}, whose --fix leaves them out; fix the image, '
            f'then {hint}'
        )
    if cfg.get('channels_last') and isinstance(error, RuntimeError) and NEEDS_CONTIGUOUS in cause:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return InputError(
            f'the model cannot be in channels_last: {Path(place.filename).name}, line '
            f'{place.lineno}, needs contiguous feature maps ({cause}); {REMEDY}'
        )
    return None


def _is_out_of_memory(error: Exception) -> bool:
    words = (
        *("DefaultCPUAllocator: can't allocate", 'DefaultCPUAllocator: not enough memory'),
        *('CUDA error: out of memory', 'CUBLAS_STATUS_ALLOC_FAILED', 'CUDNN_STATUS_ALLOC_FAILED'),
    )
    kinds = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in words)
    )


def _worker_remedy(signal_name: str, cfg: Config, training: bool) -> str:
    """What to do after a signal to a worker: 'Bus error' (shared memory) or 'Killed' (memory)."""
    splits = ('train', 'val') if training else ('test',)
    names = [name for split in splits if cfg.get(name := f'{split}_dataloader')]
    if signal_name == 'Bus error':
        without = cfg_options({f'{name}.num_workers': 0 for name in names})
        return (
            'the shared memory (/dev/shm) is full; start the container with `docker run '
            f'--shm-size=8g`, or give {without}'
        )
    values = [
        f'{name}.{key} (now {cfg[name].get(key, default)})'
        for name in names
        for key, default in (('num_workers', 0), ('batch_size', 1))
    ]
    return f'most likely the memory of the machine is full; lower {", ".join(values)}'


def _disk_fault(error: Exception, last_line: str) -> tuple[str, str | None] | None:
    """The name of a fault in `REMEDIES`, and the file; a worker has both in its last line."""
    if isinstance(error, RuntimeError) and 'PytorchStreamWriter failed writing' in str(error):
        return 'writer', None
    if not isinstance(error, OSError):
        return None
    number, file = error.errno, error.filename
    if number is None and (match := re.search(r"\[Errno (\d+)\] .*?(?:: '(.+)')?$", last_line)):
        number, file = int(match[1]), match[2]
    is_known = number in DISK and (file or number != errno.ENOENT)
    return (DISK[number], file) if is_known else None


def resume_hint(work_dir: str | None) -> str:
    """How to continue a run that ended early; for the argument see `explain`."""
    if work_dir is None:
        return 'run the same command again'
    path = last_checkpoint(work_dir)
    if path is None:
        return 'run the same command again (no checkpoint was written before)'
    state = f'{path} is complete' if path.exists() else f'the last checkpoint {path} is gone'
    return f'run the same command with --resume ({state})'


def memory_options(cfg: Config, training: bool = True) -> str:
    """The options that lower the memory of a training or a test, with their current values.

    Options that cannot lower it further are left out.

    Returns:
        For example 'train_dataloader.batch_size (now 2); --amp (now off)'.
    """
    name = 'train_dataloader' if training else 'test_dataloader'
    loader = cfg.get(name) or {}
    options = []
    if (size := loader.get('batch_size', 1)) > 1:
        options.append(f'{name}.batch_size (now {size})')
    for path, node in walk(loader, name):
        for key in ('scale', 'scales'):
            if 'Resize' in kind_of(node) and node.get(key):
                options.append(f'{path}.{key}, the image size (now {_pair(node[key])})')
    if not training:
        return '; '.join(options) or 'a smaller model'
    wrappers = walk(cfg.get('optim_wrapper') or {})
    if not any('Amp' in kind_of(node) for _, node in wrappers):
        options.append('--amp (now off)')
    for path, node in walk(cfg.get('model') or {}, 'model'):
        kind = kind_of(node)
        if kind in CBAMS and node.get('memory_efficient') is False:
            options.append(f'{path}.memory_efficient=True (now False)')
        if CHECKPOINTED.search(kind_of(node, 'base_type') or kind) and not node.get('with_cp'):
            options.append(f'{path}.with_cp=True (now False)')
    return '; '.join(options) or 'a smaller model'


def _pair(value: object) -> str:
    return str(tuple(value) if isinstance(value, list) else value)
