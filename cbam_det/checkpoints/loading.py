"""Weights before a run: can a file be read, safely, and does it fit the model that will have it?"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import get_torchvision_models
from mmengine.utils import digit_version
from torch import nn

from ..utils.config import CBAMS, detector, kind_of, walk
from ..utils.errors import InputError, some
from ..utils.run_config import pretrained_of
from .attention import NAMES, check_attention, state_of

WEIGHTS_ONLY = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
# Options that weights do not show, and their defaults.
UNSEEN = dict(
    order='channel-spatial', pools=('avg', 'max'), spatial_pools=('max', 'avg'), act_cfg=None
)


class Unreadable(InputError):
    """A file is damaged: empty, truncated, or no checkpoint at all."""


def check_pretrained(cfg: Config) -> None:
    """Fetch the weights that `init_cfg` names, so that a missing one stops the run here."""
    off = dict(frozen_stages=-1, norm_eval=False)
    for weights in pretrained_of(cfg):
        options = ''.join(f' {weights.part}.{key}={off[key]}' for key in weights.options)
        remedy = (
            f'{_where_to_put(weights.source)}, or start without: --cfg-options '
            f'{weights.part}.init_cfg=None{options} (it then needs a longer schedule)'
        )
        what = f'the pretrained weights {weights.source} of {weights.part}'
        _read(weights.source, what, remedy)


def _where_to_put(source: str) -> str:
    """The file in which torch.hub would keep `source`."""
    if source.startswith('torchvision://'):
        source = get_torchvision_models().get(source.removeprefix('torchvision://'), source)
    if urlparse(source).scheme not in ('http', 'https'):
        return f'name a file that exists instead of {source}'
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    return f'fetch {source} elsewhere and put it at {folder / Path(urlparse(source).path).name}'


def check_checkpoint(
    path: str | None, option: str, model: nn.Module | None = None, whole: bool = True
) -> dict | None:
    """Check a checkpoint before a run reads it; None passes.

    Args:
        path: a file, or a URL that MMEngine can fetch.
        option: where the path came from, for the message.
        model: what it has to fit, or None.
        whole: every weight has to be there and to fit; else one is enough.

    Returns:
        The checkpoint, so that it need not be read again; None for None.

    Raises:
        InputError: it is missing, unreadable, holds no weights, or does not fit.
    """
    if path is None:
        return None
    if '://' not in path and not Path(path).is_file():
        folder = Path(path).parent
        near = sorted(str(file) for file in folder.glob('*.pth')) if folder.is_dir() else []
        hint = f'; {folder} has {some(near)}' if near else '; train one with tools/train.py'
        raise InputError(f'no checkpoint {path} ({option}){hint}')
    remedy = 'take another epoch or fetch it again'
    checkpoint = _read(path, f'the checkpoint {path} ({option})', remedy)
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else {}
    if not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(
            f'{path} ({option}) holds no weights; give a checkpoint that tools/train.py wrote'
        )
    if model is not None:
        _check_fit(path, option, model, state, whole)
    return checkpoint


def weights_digest(checkpoint: dict) -> str:
    """Twelve digits of a checkpoint's weights: names, types, shapes and values, nothing else."""
    digest = hashlib.sha256()
    for name, value in sorted(state_of(checkpoint.get('state_dict', checkpoint)).items()):
        if isinstance(value, torch.Tensor):
            digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def whole_checkpoint(
    work_dir: str, model: nn.Module | None = None, cfg: Config | None = None
) -> str | None:
    """The checkpoint from which `--resume` goes on: the last one that can be read.

    `last_checkpoint` names the first to try; then come the others of its folder that hold an
    optimizer, the newest first. One that cannot be read is named and left where it is.

    Args:
        work_dir: the run's folder.
        model: what it has to fit, or None.
        cfg: whose gates it has to have, or None.

    Returns:
        Its path; None where there is no checkpoint at all, and a run begins.

    Raises:
        InputError: there are some and none can be read; that of `last_checkpoint` does not fit, or
            could run code; the one to go on from has other gates.
    """
    file = Path(work_dir) / 'last_checkpoint'
    named = file.read_text(encoding='utf-8').strip() if file.is_file() else ''
    folder = Path(named).parent if named and Path(named).parent.is_dir() else Path(work_dir)
    others = sorted(folder.glob('*.pth'), key=lambda path: path.stat().st_mtime, reverse=True)
    broken = []
    for path in dict.fromkeys([*[named] * bool(named), *map(str, others)]):
        if path == named and not Path(path).is_file():
            broken.append(f'no checkpoint {path} (--resume)')
            continue
        try:
            checkpoint = check_checkpoint(path, '--resume', model)
        except Unreadable as error:
            broken.append(str(error).rpartition('; ')[0])  # what to do is done here
            continue
        except InputError:
            if path == named:
                raise
            continue  # weights of another origin
        if path == named or {'optimizer', 'meta'} <= set(checkpoint):
            for fault in broken:
                print_log(f'skipped: {fault}', level=logging.WARNING)
            if broken:
                print_log(f'going on from {path}', level=logging.WARNING)
            if cfg is not None:
                check_same_gates(cfg, checkpoint)
            return path
    if broken:
        raise InputError(
            f'{broken[0]}{"; and so on" if broken[1:] else ""}; {folder} holds no other checkpoint '
            'to resume from: name one by --resume PATH, or leave --resume out to begin anew'
        )
    return None


def _read(source: str, what: str, remedy: str) -> dict:
    """A checkpoint; InputError with the cause and `remedy` where it cannot be read."""
    try:
        return CheckpointLoader.load_checkpoint(source, map_location='cpu', logger='silent')
    except Exception as error:
        fault = _first_line(error)
        file = Path(source)
        kind = Unreadable
        head = b'-'
        if file.is_file():
            with file.open('rb') as stream:
                head = stream.read(64).lstrip().lower()
        if not head:
            fault = 'it is empty'
        elif head.startswith(b'<'):
            fault = 'it is a web page, not weights: a download was answered by a page'
        elif file.is_file() and not (head.startswith(b'pk') or head.startswith(b'\x80')):
            fault = 'it is no file of torch'
        elif 'PytorchStreamReader' in str(error):
            fault = 'it is cut off or damaged'
        elif isinstance(error, UnpicklingError) and 'weights only' in str(error).lower():
            fault = 'more than weights is pickled in it, which could run any code when it is read'
            remedy = f'where you trust its source, put {WEIGHTS_ONLY}=0 before the command'
            kind = InputError
        raise kind(f'{what} cannot be loaded ({fault}); {remedy}') from None


def _first_line(error: BaseException) -> str:
    return f'{type(error).__name__}: {error}'.strip().splitlines()[0][:200]


def _check_fit(path: str, option: str, model: nn.Module, state: dict, whole: bool) -> None:
    own = model.state_dict()
    given = state_of(state)
    counters = {key for key in own if key.endswith('num_batches_tracked')}
    faults = {
        'missing in the file': [key for key in own if key not in given and key not in counters],
        'unknown to the model': [key for key in given if key not in own],
        'of another shape': [
            key for key in own if key in given and own[key].shape != given[key].shape
        ],
    }
    if not whole:
        check_attention(given, model, f'{path} ({option})', whole=False)
    fitting = len(set(own) & set(given)) - len(faults['of another shape'])
    absent = faults['missing in the file']
    paper = bool(absent) and all(key.endswith('_gate.gain') for key in absent)
    if any(faults.values()) if whole else not fitting:
        said = '; '.join(
            f'{len(keys)} weights {what} ({some(keys)})' for what, keys in faults.items() if keys
        )
        raise InputError(
            f'{path} ({option}) does not fit the model of this config: {said}; '
            f'{"its CBAMs have start=paper: give start=paper, or convert it; " if paper else ""}'
            'give the config that the checkpoint was trained with'
            + (
                '; tools/convert_checkpoint.py moves attention between layouts and forms'
                if any(map(NAMES.search, faults['unknown to the model']))
                else ''
            )
        )


def check_same_gates(cfg: Config, checkpoint: dict) -> None:
    """Compare what weights do not show, the order and the pools, with the checkpoint's own config.

    Raises:
        InputError: they differ, so that the weights would make another function.
    """
    text = checkpoint.get('meta', {}).get('cfg')
    if not isinstance(text, str):
        return  # weights alone: nothing is known
    try:
        trained = Config.fromstring(text, '.py')
    except Exception:
        return  # of a config that this machine cannot read
    theirs, ours = _gates(trained), _gates(cfg)
    for place in set(theirs) & set(ours):
        for option, default in UNSEEN.items():
            was, now = (gates[place].get(option, default) for gates in (theirs, ours))
            if _plain(was) != _plain(now):
                raise InputError(
                    f'the checkpoint was trained with {option}={was!r} of {place}, and the config '
                    f'has {now!r}: the same weights would be another function; give the same option'
                )


def _gates(cfg: Config) -> dict[str, dict]:
    nodes = walk(detector(cfg), 'model')
    return {path: node for path, node in nodes if kind_of(node) in CBAMS}


def _plain(value: object) -> object:
    if isinstance(value, dict):  # a type may be a class here and its name there
        return kind_of(value), *sorted((key, str(value[key])) for key in value if key != 'type')
    return (value,) if isinstance(value, str) else tuple(value) if value else value


def read_weights_only() -> None:
    """Let torch read nothing but weights from a pickle, which else can run any code.

    MMEngine reads a file unsafely, with a warning, where reading it safely fails; torch's own
    variable closes that way. A user who has set it to 0 trusts the source of the files. Before
    torch 2.6 MMEngine does not name what its own checkpoints hold beside weights, so it is done
    here, and torch's own reader has known holes; before 2.4 it cannot be told anything, and
    nothing changes.
    """
    if digit_version(torch.__version__) < digit_version('2.4.0'):
        return
    os.environ.setdefault(WEIGHTS_ONLY, '1')
    known = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([one for one in _beside_weights() if one not in known])


@functools.cache
def _beside_weights() -> list[object]:
    """What MMEngine's checkpoints hold beside weights: logs, with numbers of numpy."""
    rebuild = [np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]]
    # numpy 2 has them elsewhere, and a run may go on where numpy is another.
    modules = ('numpy.core.multiarray', 'numpy._core.multiarray')
    other = [_named(one, name) for one in rebuild for name in modules if name != one.__module__]
    if digit_version(torch.__version__) >= digit_version('2.6.0'):
        return other  # MMEngine names the rest
    numbers = [type(np.dtype(kind)) for kind in ('uint32', 'int64', 'float64')]
    return [HistoryBuffer, np.ndarray, np.dtype, *numbers, *rebuild, *other, _statistic]


def _named(function: Callable, module: str) -> Callable:
    def call(*args: object) -> object:
        return function(*args)

    call.__module__, call.__name__, call.__qualname__ = module, *[function.__name__] * 2
    return call


def _statistic(owner: type, name: str) -> object:
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'{name} of {owner} is asked for')
    return getattr(owner, name)


# Stands for the `getattr` by which a HistoryBuffer's own methods are pickled in it.
_statistic.__module__, _statistic.__name__ = 'builtins', 'getattr'
