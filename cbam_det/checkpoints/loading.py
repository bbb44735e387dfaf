"""Check before a run that its weights can be read and fit the model."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Size, Tensor, nn

from ..utils.config import kind_of
from ..utils.errors import InputError, first_few
from ..utils.find_files import check_checkpoint_file
from ..utils.installation import tool_command
from ..utils.options import cfg_options
from ..utils.run_config import ModelConfig, Pretrained
from ..utils.split_config import Split
from .attention import (
    ATTENTION_KEY,
    BATCH_COUNTER,
    check_attention,
    frozen_stage_hint,
    pretrained_parts,
    state_of,
)
from .files import read_checkpoint
from .integrity import Unreadable, downloaded_file, url_of

CONVERTERS = dict(SwinTransformer='swin_converter', PyramidVisionTransformer='pvt_convert')
WRITTEN = re.compile(r'(epoch_\d+|iter_\d+|stopped)\.pth')  # names that runs write
# Options that weights do not determine, and their defaults.
OPTIONS_NOT_IN_WEIGHTS = dict(
    order='channel-spatial', pools=('avg', 'max'), spatial_pools=('max', 'avg'), act_cfg=None
)


def check_pretrained(pretrained: Sequence[Pretrained], model: nn.Module | None = None) -> None:
    """Download the weights that `init_cfg` names, and check that they fit.

    Args:
        pretrained: the pretrained weights in a config's model.
        model: the detector, to check that the weights fit its parts, or None.

    Raises:
        InputError: weights cannot be downloaded or read, or contain fewer than half of the weights
            of their part; the message names the prefix to set.
    """
    unfrozen = dict(frozen_stages=-1, norm_eval=False)
    for weights in pretrained:
        options = ''.join(f' {weights.part}.{key}={unfrozen[key]}' for key in weights.options)
        remedy = (
            f'{_where_to_put(weights.source)}, or train without them by --cfg-options '
            f'{weights.part}.init_cfg=None{options} (which needs a longer schedule)'
        )
        description = f'the pretrained weights {weights.source} of {weights.part}'
        read_checkpoint(weights.source, description, remedy)
    for name, part, source, state in pretrained_parts(model) if model else ():
        parts = [weights.part for weights in pretrained if weights.source == source]
        place = next((path for path in parts if path.endswith(f'.{name}')), f'model.{name}')
        _check_part(place.rstrip('.'), part, source, state)


def _check_part(place: str, part: nn.Module, source: str, state: Mapping[str, Tensor]) -> None:
    """Raise InputError if `state` has less than half of a part's weights, attention aside."""
    own = {
        key: value.shape
        for key, value in part.state_dict().items()
        if not (key.endswith(BATCH_COUNTER) or 'inserted.' in key or ATTENTION_KEY.search(key))
    }
    is_converted = getattr(part, 'convert_weights', False)
    if is_converted and not (state := _converted(part, source)):
        return
    # The audit reports attention that does not fit.
    if any(ATTENTION_KEY.search(key) for key in set(state) - set(part.state_dict())):
        return
    shapes = {key: value.shape for key, value in state.items() if hasattr(value, 'shape')}
    fitting = sum(shapes.get(key) == shape for key, shape in own.items())
    if 2 * fitting >= len(own):
        return
    whole = state_of(read_checkpoint(source, source, 'download it again'))
    shapes = {key: value.shape for key, value in whole.items() if hasattr(value, 'shape')}
    prefix, under_prefix = _best_prefix(own, shapes)
    outer, in_part = _best_prefix(shapes, own)
    if is_converted and under_prefix > fitting:
        remedy = f'they have been converted: add --cfg-options {place}.convert_weights=False'
    elif under_prefix > max(fitting, in_part):
        remedy = f'its keys begin with {prefix}: add --cfg-options {place}.init_cfg.prefix={prefix}'
    elif in_part > fitting:
        remedy = f'it has the weights of {place}.{outer[:-1]}: move the init_cfg there'
    else:
        remedy = f'it has {first_few(list(shapes))}; give weights of this module'
    raise InputError(
        f'{source} (init_cfg of {place}) does not fit: it has {fitting} of the {len(own)} weights '
        f'of {place} ({first_few(list(own))}); {remedy}'
    )


def _converted(part: nn.Module, source: str) -> dict[str, Tensor]:
    """The weights of a file in the names to which mmdet's Swin and PVT convert those of the
    original projects; {} for another network, whose conversion is unknown.
    """
    bases = [base for base in type(part).__mro__ if base.__name__ in CONVERTERS]
    if not bases:
        return {}
    convert = getattr(importlib.import_module(bases[0].__module__), CONVERTERS[bases[0].__name__])
    state = state_of(read_checkpoint(source, source, 'download it again'))
    state = dict(state.get('model', state))
    with contextlib.suppress(Exception):  # weights of another network, which do not fit as they are
        state = convert(state)
    return {key.removeprefix('backbone.'): value for key, value in state.items()}


def _best_prefix(own: Mapping[str, Size], others: Mapping[str, Size]) -> tuple[str, int]:
    """The prefix under which `others` has most of the names in `own`, and their number."""
    counts: Counter[str] = Counter()
    for key, shape in others.items():
        for dot in re.finditer(r'\.', key):
            if own.get(key[dot.end() :]) == shape:
                counts[key[: dot.end()]] += 1
    return max(counts.items(), key=lambda item: item[1], default=('', 0))


def _where_to_put(source: str) -> str:
    """A remedy with the path at which torch.hub looks for `source`."""
    file = downloaded_file(source)
    if file is None:
        return f'give an existing file instead of {source}'
    return f'download {url_of(source)} elsewhere and save it as {file}'


def check_checkpoint(
    path: str, option: str, model: nn.Module | None = None, whole: bool = True
) -> dict:
    """Read a checkpoint and check it before a run loads it.

    Args:
        path: a file, or a URL that MMEngine can download.
        option: the option that gave the path, for the message.
        model: the model to compare it with, or None.
        whole: every weight of the model must be present and fit; otherwise one is enough.

    Returns:
        The checkpoint. If `model` is given, that of a semi-supervised model has only the weights of
        the teacher, the detector with which it predicts.

    Raises:
        InputError: it is missing, unreadable, has no weights, or does not fit.
    """
    check_checkpoint_file(path, option)
    remedy = 'use the checkpoint of another epoch or download it again'
    checkpoint = read_checkpoint(path, f'the checkpoint {path} ({option})', remedy)
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else {}
    if not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f'{path} ({option}) has no weights; give the checkpoint of a training')
    if model is not None:
        if all(key.startswith(('student.', 'teacher.')) for key in state):
            state = state_of(state, 'teacher.')
            checkpoint = {**checkpoint, 'state_dict': state}
        _check_fit(path, option, model, state, whole)
    return checkpoint


def weights_digest(checkpoint: dict) -> str:
    """A hash (12 hex digits) of the names, dtypes, shapes and values of a checkpoint's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(state_of(checkpoint.get('state_dict', checkpoint)).items()):
        if isinstance(value, torch.Tensor):
            digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def last_readable_checkpoint(
    work_dir: str, model: nn.Module | None = None, model_cfg: ModelConfig | None = None
) -> str | None:
    """Find the checkpoint from which `--resume` continues: the last one that can be read.

    The file `last_checkpoint` names the first one to try. Then come the other checkpoints of that
    folder that have the state of an optimizer, newest first. Unreadable ones are logged and kept.

    Args:
        work_dir: the run's folder.
        model: the model to compare the checkpoint with, or None.
        model_cfg: the config to compare its gates with, or None.

    Returns:
        Its path; None if there is no checkpoint, so that a new run begins.

    Raises:
        InputError: none of the checkpoints can be read; that of `last_checkpoint`, or each that a
            run has written, does not fit or could run code; or the one to resume from has other
            gates.
    """
    folder = Path(work_dir)
    last_checkpoint, faults = _read_last_checkpoint(folder)
    if last_checkpoint and Path(last_checkpoint).parent.is_dir():
        folder = Path(last_checkpoint).parent
    files = [path for path in folder.glob('*.pth') if path.is_file()]  # no link to a removed file
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    candidates = [last_checkpoint] if last_checkpoint else []
    candidates += [str(path) for path in files if str(path) != last_checkpoint]
    rejected: InputError | None = None
    for path in candidates:
        if path == last_checkpoint and not Path(path).is_file():
            faults.append(f'the checkpoint {path} (--resume) does not exist')
            continue
        try:
            checkpoint = check_checkpoint(path, '--resume', model)
            if path != last_checkpoint:
                check_resumable(path, checkpoint)
        except Unreadable as error:
            # The remedy is left out, since the next checkpoint is tried here.
            faults.append(str(error).rpartition('; ')[0])
            continue
        except InputError as error:
            if path == last_checkpoint:
                raise
            if WRITTEN.fullmatch(Path(path).name):  # others are checkpoints of something else
                rejected = rejected or error
            continue
        for fault in faults:
            print_log(f'skipped: {fault}', level=logging.WARNING)
        if faults:
            print_log(f'resuming from {path}', level=logging.WARNING)
        if model_cfg is not None:
            check_same_gates(model_cfg, checkpoint)
        return path
    if faults:
        raise InputError(
            f'{faults[0]}{"; and so on" if faults[1:] else ""}; {folder} has no other checkpoint '
            'to resume from: give one by --resume PATH, or leave --resume out to start a new run'
        )
    if rejected is not None:  # a new run would overwrite it
        raise rejected
    return None


def _read_last_checkpoint(work_dir: Path) -> tuple[str, list[str]]:
    """The checkpoint that the file `last_checkpoint` names, or '', and faults of that file."""
    file = work_dir / 'last_checkpoint'
    if not file.is_file():
        return '', []
    try:
        checkpoint = file.read_text(encoding='utf-8').strip()
        Path(checkpoint).is_file()
    except (UnicodeDecodeError, OSError) as error:
        return '', [f'{file} is damaged ({type(error).__name__})']
    if checkpoint and not checkpoint.isprintable():
        return '', [f'{file} is damaged (it does not contain a path)']
    checkpoints = [path for path in work_dir.glob('*.pth') if WRITTEN.fullmatch(path.name)]
    if checkpoint and checkpoints and Path(checkpoint).parent.resolve() != work_dir.resolve():
        moved = work_dir / Path(checkpoint).name  # the folder was copied or moved
        fault = f'{file} names {checkpoint}, which is in another folder'
        return str(moved) if moved in checkpoints else '', [fault]
    return checkpoint, []


def _check_fit(path: str, option: str, model: nn.Module, state: dict, whole: bool) -> None:
    model_state = model.state_dict()
    weights = state_of(state)
    batch_counters = {key for key in model_state if key.endswith(BATCH_COUNTER)}
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
            hint = 'its CBAMs have start=paper: set start=paper, or convert it; '
        message = '; '.join(
            f'{len(keys)} weights {fault_kind} ({first_few(keys)})'
            for fault_kind, keys in faults.items()
            if keys
        )
        raise InputError(
            f'{path} ({option}) does not fit the model of this config: {message}'
            f'{frozen_stage_hint(faults["unknown to the model"], model)}; {hint}'
            'use the config that the checkpoint was trained with'
            + (
                '; another layout or format of the attention can be converted: '
                + tool_command('convert-checkpoint', 'CHECKPOINT', 'OUT')
                if any(map(ATTENTION_KEY.search, faults['unknown to the model']))
                else ''
            )
        )


def check_same_gates(model_cfg: ModelConfig, checkpoint: dict) -> None:
    """Compare the options that weights do not determine with those in the checkpoint's config.

    Raises:
        InputError: the order, pools or activation differ, which would change the outputs.
    """
    text = checkpoint.get('meta', {}).get('cfg')
    if not isinstance(text, str):
        return  # the checkpoint has no config
    try:
        trained_gates = ModelConfig.from_cfg(Config.fromstring(text, '.py')).gates
    except Exception:
        return  # the config cannot be read on this machine
    for place in set(trained_gates) & set(model_cfg.gates):
        for option, default in OPTIONS_NOT_IN_WEIGHTS.items():
            trained_value = trained_gates[place].get(option, default)
            config_value = model_cfg.gates[place].get(option, default)
            if _comparable(trained_value) != _comparable(config_value):
                remedy = f'{place}.{option}={trained_value!r}'
                if not isinstance(trained_value, dict):
                    remedy = cfg_options({f'{place}.{option}': trained_value})
                raise InputError(
                    f'the checkpoint was trained with {option}={trained_value!r} in {place}, '
                    f'but the config has {config_value!r}, which would change the outputs; set '
                    f'{remedy}'
                )


def check_resumable(path: str, checkpoint: dict) -> None:
    """Check that a training can resume from a checkpoint.

    Raises:
        InputError: it has no optimizer state, as in `best_*.pth`, so the schedules would start
            again (https://github.com/open-mmlab/mmengine/issues/1409).
    """
    if missing := [key for key in ('meta', 'optimizer') if key not in checkpoint]:
        raise InputError(
            f'--resume {path}: it has no {first_few(missing)}, so the learning rate schedule would '
            'start again; give an epoch_*.pth, or start a new training from its weights by '
            f'{cfg_options({"load_from": str(path)})}'
        )


def trained_classes(checkpoint: Mapping) -> tuple[str, ...]:
    """The classes that a checkpoint was trained on; () where it does not say.

    Where joined data sets differed, mmdet has written the metainfo of each: the first one's count.
    """
    meta = checkpoint.get('meta', {})
    meta = meta.get('dataset_meta') or meta  # mmdet 2 has them in `meta` itself
    meta = meta[0] if isinstance(meta, (list, tuple)) else meta
    return tuple(meta.get('classes') or meta.get('CLASSES') or ())


def check_checkpoint_classes(split: Split | None, checkpoint: dict) -> None:
    """Compare the classes of a split's data with the classes that a checkpoint was trained on.

    Raises:
        InputError: the classes are the same in another order, so labels would be mixed up.
    """
    if split is None:
        return
    trained = trained_classes(checkpoint)
    for dataset in split.data_sets:
        classes = dataset.classes
        if classes != trained and sorted(classes) == sorted(trained):
            raise InputError(
                f'the checkpoint was trained on the classes {first_few(list(trained), 5)}, but '
                f'{split.loader} has them in another order '
                f'({first_few(list(classes), 5)}), so labels would be mixed up; set '
                "metainfo.classes in the checkpoint's order"
            )
        if trained and classes and classes != trained:
            print_log(
                f'the checkpoint was trained on the classes {first_few(list(trained), 5)}, but the '
                f'{split.name} data has {first_few(list(classes), 5)}',
                level=logging.WARNING,
            )


def _comparable(value: object) -> object:
    if isinstance(value, dict):  # a type may be a class or its name
        return kind_of(value), *sorted((key, str(value[key])) for key in value if key != 'type')
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)
