"""Faults of the machine in the middle of a run, as errors that tell what to do."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import torch
from mmengine.config import Config

from .errors import InputError
from .preflight import walk

FULL = ('ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS')  # of writing alone
REFUSED = ('EACCES', 'EPERM')
DISK = {getattr(errno, name): name for name in (*FULL, *REFUSED, 'EIO') if hasattr(errno, name)}
# mmdet's backbones with the option `with_cp`.
CHECKPOINTED = re.compile(r'Res(Net|NeXt|NeSt|2Net)|RegNet|HRNet|MobileNetV2|EfficientNet|Swin')


def explain(error: Exception, cfg: Config, work_dir: str) -> InputError | None:
    """What a fault of the disk or a lack of memory means for a training, or None for other errors.

    Args:
        error: what the run raised.
        cfg: its merged config, for the present values of what takes memory.
        work_dir: its folder, for the checkpoint from which it can go on.
    """
    said = f'{type(error).__name__}: {error}'.strip().splitlines()[0][:200]
    if _of_memory(error):
        return InputError(f'out of memory ({said}); lower what takes it: {memory_options(cfg)}')
    if _of_disk(error):
        did, remedy = _disk_remedy(DISK.get(getattr(error, 'errno', None)))
        place = f' {error.filename}' if getattr(error, 'filename', None) else ''
        return InputError(
            f'the run could not {did}{place} ({said}); {_last(work_dir)}; {remedy}, then give the '
            'same command with --resume'
        )
    return None


def _of_memory(error: Exception) -> bool:
    words = ("DefaultCPUAllocator: can't allocate", 'DefaultCPUAllocator: not enough memory')
    kinds = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in words)
    )


def _of_disk(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in DISK
    return isinstance(error, RuntimeError) and 'PytorchStreamWriter failed writing' in str(error)


def _disk_remedy(name: str | None) -> tuple[str, str]:
    """What a run was about and what mends it; None is torch's writer, which tells no number."""
    if name in REFUSED:
        return 'read or write', 'permit it to the user of the run'
    if name == 'EIO':
        return 'read or write', 'mend the disk or its connection'
    return 'write', 'make room or mend the disk'


def _last(work_dir: str) -> str:
    file = Path(work_dir) / 'last_checkpoint'
    last = file.read_text().strip() if file.is_file() else ''
    if not last:
        return 'no checkpoint was written before'
    return f'{last} is whole' if Path(last).exists() else f'the last checkpoint {last} is gone'


def memory_options(cfg: Config) -> str:
    """What lowers the memory of a training, with the present values; what is used up is left out.

    Returns:
        'train_dataloader.batch_size (now 2); the image size (...); --amp', say.
    """
    loader = cfg.get('train_dataloader') or {}
    options = []
    if (size := loader.get('batch_size', 1)) > 1:
        options.append(f'train_dataloader.batch_size (now {size})')
    for path, node in walk(loader, 'train_dataloader'):
        for key in ('scale', 'scales'):
            if 'Resize' in str(node.get('type')) and node.get(key):
                options.append(f'{path}.{key}, the image size (now {_pair(node[key])})')
    wrappers = walk(cfg.get('optim_wrapper') or {})
    if not any('Amp' in str(node.get('type')) for _, node in wrappers):
        options.append('--amp (now off)')
    for path, node in walk(cfg.get('model') or {}, 'model'):
        kind = str(node.get('type')).rpartition('.')[2]
        if kind in ('CBAM', 'CBAMDet') and node.get('lean') is False:
            options.append(f'{path}.lean=True (now False)')
        if CHECKPOINTED.search(str(node.get('base_type') or kind)) and not node.get('with_cp'):
            options.append(f'{path}.with_cp=True (now False)')
    return '; '.join(options) or 'a smaller model'


def _pair(value: object) -> str:
    return str(tuple(value) if isinstance(value, list) else value)
