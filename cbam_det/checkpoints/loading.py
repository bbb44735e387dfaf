"""Weights before a run: can a file be read, and does it fit the model that will have it?"""

from __future__ import annotations

import hashlib
import logging
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload
from urllib.parse import urlparse

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner.checkpoint import get_torchvision_models
from torch import Size, Tensor, nn

from ..utils.config import kind_of
from ..utils.errors import InputError, first_few
from ..utils.run_config import ModelConfig, Pretrained
from ..utils.split_config import Split
from .attention import ATTENTION_KEY, BATCH_COUNTER, check_attention, pretrained_parts, state_of
from .files import Unreadable, read_checkpoint

WRITTEN = re.compile(r'(epoch_\d+|iter_\d+|stopped)\.pth')  # by a run
# Options that weights do not show, and their defaults.
OPTIONS_NOT_IN_WEIGHTS = dict(
    order='channel-spatial', pools=('avg', 'max'), spatial_pools=('max', 'avg'), act_cfg=None
)


def check_pretrained(pretrained: Sequence[Pretrained], model: nn.Module | None = None) -> None:
    """Fetch the weights that `init_cfg` names, so that a missing one stops the run here.

    Args:
        pretrained: those of a config's model.
        model: the detector, whose parts they have to fit, or None.

    Raises:
        InputError: weights cannot be fetched or read, or fewer than half of the weights of the part
            that is to start from them are among them; the message names the prefix to set.
    """
    unfrozen = dict(frozen_stages=-1, norm_eval=False)
    for weights in pretrained:
        options = ''.join(f' {weights.part}.{key}={unfrozen[key]}' for key in weights.options)
        remedy = (
            f'{_where_to_put(weights.source)}, or start without: --cfg-options '
            f'{weights.part}.init_cfg=None{options} (it then needs a longer schedule)'
        )
        description = f'the pretrained weights {weights.source} of {weights.part}'
        read_checkpoint(weights.source, description, remedy)
    for name, part, source, state in pretrained_parts(model) if model else ():
        parts = [weights.part for weights in pretrained if weights.source == source]
        place = next((path for path in parts if path.endswith(f'.{name}')), f'model.{name}')
        _check_part(place.rstrip('.'), part, source, state)


def _check_part(place: str, part: nn.Module, source: str, state: Mapping[str, Tensor]) -> None:
    """Raise InputError where few of a part's weights, its attention aside, are in `state`."""
    own = {
        key: value.shape
        for key, value in part.state_dict().items()
        if not (key.endswith(BATCH_COUNTER) or 'inserted.' in key or ATTENTION_KEY.search(key))
    }
    # Swin and PVT convert the names as they load; attention without a place is the audit's.
    foreign = any(ATTENTION_KEY.search(key) for key in set(state) - set(part.state_dict()))
    if getattr(part, 'convert_weights', False) or foreign:
        return
    shapes = {key: value.shape for key, value in state.items() if hasattr(value, 'shape')}
    fitting = sum(shapes.get(key) == shape for key, shape in own.items())
    if 2 * fitting >= len(own):
        return
    whole = state_of(read_checkpoint(source, source, 'fetch it again'))
    shapes = {key: value.shape for key, value in whole.items() if hasattr(value, 'shape')}
    prefix, under_prefix = _best_prefix(own, shapes)
    outer, in_part = _best_prefix(shapes, own)
    if under_prefix > max(fitting, in_part):
        remedy = f'its keys begin with {prefix}: --cfg-options {place}.init_cfg.prefix={prefix}'
    elif in_part > fitting:
        remedy = f'it holds the weights of {place}.{outer[:-1]}: give it as the init_cfg of that'
    else:
        remedy = f'it has {first_few(list(shapes))}; give weights of that module'
    raise InputError(
        f'{source} (init_cfg of {place}) does not fit: it has {fitting} of the {len(own)} weights '
        f'that it is for ({first_few(list(own))}); {remedy}'
    )


def _best_prefix(own: Mapping[str, Size], others: Mapping[str, Size]) -> tuple[str, int]:
    """What stands before most of the names of `own` among the names of others, and how many."""
    counts: Counter[str] = Counter()
    for key, shape in others.items():
        for dot in re.finditer(r'\.', key):
            if own.get(key[dot.end() :]) == shape:
                counts[key[: dot.end()]] += 1
    return max(counts.items(), key=lambda item: item[1], default=('', 0))


def _where_to_put(source: str) -> str:
    """The file in which torch.hub would keep `source`."""
    if source.startswith('torchvision://'):
        source = get_torchvision_models().get(source.removeprefix('torchvision://'), source)
    if urlparse(source).scheme not in ('http', 'https'):
        return f'name a file that exists instead of {source}'
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    return f'fetch {source} elsewhere and put it at {folder / Path(urlparse(source).path).name}'


@overload
def check_checkpoint(
    path: str, option: str, model: nn.Module | None = None, whole: bool = True
) -> dict: ...


@overload
def check_checkpoint(
    path: None, option: str, model: nn.Module | None = None, whole: bool = True
) -> None: ...


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
        candidates = sorted(str(file) for file in folder.glob('*.pth')) if folder.is_dir() else []
        hint = '; train one with tools/train.py'
        if candidates:
            hint = f'; {folder} has {first_few(candidates)}'
        raise InputError(f'no checkpoint {path} ({option}){hint}')
    remedy = 'take another epoch or fetch it again'
    checkpoint = read_checkpoint(path, f'the checkpoint {path} ({option})', remedy)
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
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def last_readable_checkpoint(
    work_dir: str, model: nn.Module | None = None, model_cfg: ModelConfig | None = None
) -> str | None:
    """The checkpoint from which `--resume` goes on: the last one that can be read.

    `last_checkpoint` names the first to try; then come the others of its folder that hold an
    optimizer, the newest first. One that cannot be read is named and left where it is.

    Args:
        work_dir: the run's folder.
        model: what it has to fit, or None.
        model_cfg: whose gates it has to have, or None.

    Returns:
        Its path; None where there is no checkpoint at all, and a run begins.

    Raises:
        InputError: there are some and none can be read; that of `last_checkpoint` does not fit, or
            could run code; the one to go on from has other gates.
    """
    folder = Path(work_dir)
    last_checkpoint, faults = _read_last_checkpoint(folder)
    if last_checkpoint and Path(last_checkpoint).parent.is_dir():
        folder = Path(last_checkpoint).parent
    files = sorted(folder.glob('*.pth'), key=lambda path: path.stat().st_mtime, reverse=True)
    candidates = [last_checkpoint] if last_checkpoint else []
    candidates += [str(path) for path in files if str(path) != last_checkpoint]
    for path in candidates:
        if path == last_checkpoint and not Path(path).is_file():
            faults.append(f'no checkpoint {path} (--resume)')
            continue
        try:
            checkpoint = check_checkpoint(path, '--resume', model)
        except Unreadable as error:
            faults.append(str(error).rpartition('; ')[0])  # what to do is done here
            continue
        except InputError:
            if path == last_checkpoint:
                raise
            continue  # weights of another origin
        if path == last_checkpoint or {'optimizer', 'meta'} <= set(checkpoint):
            for fault in faults:
                print_log(f'skipped: {fault}', level=logging.WARNING)
            if faults:
                print_log(f'going on from {path}', level=logging.WARNING)
            if model_cfg is not None:
                check_same_gates(model_cfg, checkpoint)
            return path
    if faults:
        raise InputError(
            f'{faults[0]}{"; and so on" if faults[1:] else ""}; {folder} holds no other checkpoint '
            'to resume from: name one by --resume PATH, or leave --resume out to begin anew'
        )
    return None


def _read_last_checkpoint(work_dir: Path) -> tuple[str, list[str]]:
    """The checkpoint that `last_checkpoint` names, '' for none, and what is wrong with it."""
    file = work_dir / 'last_checkpoint'
    if not file.is_file():
        return '', []
    try:
        checkpoint = file.read_text(encoding='utf-8').strip()
        Path(checkpoint).is_file()
    except (UnicodeDecodeError, OSError) as error:
        return '', [f'{file} is damaged ({type(error).__name__})']
    if checkpoint and not checkpoint.isprintable():
        return '', [f'{file} is damaged (it names no file)']
    checkpoints = [path for path in work_dir.glob('*.pth') if WRITTEN.fullmatch(path.name)]
    if checkpoint and checkpoints and Path(checkpoint).parent.resolve() != work_dir.resolve():
        moved = work_dir / Path(checkpoint).name  # the folder was copied or moved
        fault = f'{file} names {checkpoint}, of another folder'
        return str(moved) if moved in checkpoints else '', [fault]
    return checkpoint, []


def _check_fit(path: str, option: str, model: nn.Module, state: dict, whole: bool) -> None:
    model_state = model.state_dict()
    weights = state_of(state)
    batch_counters = {key for key in model_state if key.endswith('num_batches_tracked')}
    faults = {
        'missing in the file': [
            key for key in model_state if key not in weights and key not in batch_counters
        ],
        'unknown to the model': [key for key in weights if key not in model_state],
        'of another shape': [
            key
            for key in model_state
            if key in weights and model_state[key].shape != weights[key].shape
        ],
    }
    if not whole:
        check_attention(weights, model, f'{path} ({option})', whole=False)
    fitting = len(set(model_state) & set(weights)) - len(faults['of another shape'])
    absent = faults['missing in the file']
    has_paper_start = bool(absent) and all(key.endswith('_gate.gain') for key in absent)
    if any(faults.values()) if whole else not fitting:
        hint = ''
        if has_paper_start:
            hint = 'its CBAMs have start=paper: give start=paper, or convert it; '
        message = '; '.join(
            f'{len(keys)} weights {fault_kind} ({first_few(keys)})'
            for fault_kind, keys in faults.items()
            if keys
        )
        raise InputError(
            f'{path} ({option}) does not fit the model of this config: {message}; '
            f'{hint}'
            'give the config that the checkpoint was trained with'
            + (
                '; tools/convert_checkpoint.py moves attention between layouts and forms'
                if any(map(ATTENTION_KEY.search, faults['unknown to the model']))
                else ''
            )
        )


def check_same_gates(model_cfg: ModelConfig, checkpoint: dict) -> None:
    """Compare what weights do not show, the order and the pools, with the checkpoint's own config.

    Raises:
        InputError: they differ, so that the weights would make another function.
    """
    text = checkpoint.get('meta', {}).get('cfg')
    if not isinstance(text, str):
        return  # weights alone: nothing is known
    try:
        trained_gates = ModelConfig.from_cfg(Config.fromstring(text, '.py')).gates
    except Exception:
        return  # of a config that this machine cannot read
    for place in set(trained_gates) & set(model_cfg.gates):
        for option, default in OPTIONS_NOT_IN_WEIGHTS.items():
            trained_value = trained_gates[place].get(option, default)
            config_value = model_cfg.gates[place].get(option, default)
            if _comparable(trained_value) != _comparable(config_value):
                raise InputError(
                    f'the checkpoint was trained with {option}={trained_value!r} of {place}, and '
                    f'the config has {config_value!r}: the same weights would be another function; '
                    'give the same option'
                )


def check_resumable(path: str, checkpoint: dict) -> None:
    """Check that a training can go on from a checkpoint.

    Raises:
        InputError: it lacks the state of the optimizer, as `best_*.pth` do, so that the schedules
            would begin again (https://github.com/open-mmlab/mmengine/issues/1409).
    """
    if missing := [key for key in ('meta', 'optimizer') if key not in checkpoint]:
        raise InputError(
            f'--resume {path}: it holds no {first_few(missing)}, so the learning rate and its '
            'schedule would begin again; give an epoch_*.pth, or begin a training with its weights '
            f'by --cfg-options load_from={shlex.quote(str(path))}'
        )


def check_checkpoint_classes(split: Split | None, checkpoint: dict) -> None:
    """Compare the classes of a split's data with those that a checkpoint was trained on.

    Raises:
        InputError: they are the same in another order, so that each label would be another class.
    """
    meta = checkpoint.get('meta', {}).get('dataset_meta') or {}
    trained = tuple(meta.get('classes') or meta.get('CLASSES') or ())
    if split is None:
        return
    for dataset in split.data_sets:
        classes = dataset.classes
        if classes != trained and sorted(classes) == sorted(trained):
            raise InputError(
                f'the checkpoint was trained on the classes {first_few(list(trained), 5)}, and '
                f'{split.loader} has them in another order '
                f'({first_few(list(classes), 5)}): each label would be another '
                "class; put metainfo.classes in the checkpoint's order"
            )
        if trained and classes and classes != trained:
            print_log(
                f'the checkpoint was trained on the classes {first_few(list(trained), 5)}, the '
                f'{split.name} data has {first_few(list(classes), 5)}',
                level=logging.WARNING,
            )


def _comparable(value: object) -> object:
    if isinstance(value, dict):  # a type may be a class here and its name there
        return kind_of(value), *sorted((key, str(value[key])) for key in value if key != 'type')
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)
