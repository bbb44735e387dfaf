"""Checks of a run before its model is built: data, classes, weights, device.

Most take a merged config. They raise `InputError` with the remedy and change nothing else; what a
CPU needs in a config (`adapt_to_cpu`, `amp_on_cpu`) and `--data-root` are deliberate exceptions.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, print_log
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import get_torchvision_models
from mmengine.utils import digit_version
from torch import distributed, nn

from .attention import CBAM
from .datasets.checks import (
    check_dataset,
    check_num_classes,
    config_classes,
    leaf_datasets,
)
from .errors import InputError, some
from .hooks.audit import NAMES, check_attention, state_of
from .nodes import (
    CBAMS,
    PRETRAINED,
    RUNNER_KEYS,
    detector,
    enter_scope,
    kind_of,
    nearest,
    places_of,
    walk,
)

GPU_STRATEGIES = ('FSDPStrategy', 'DeepSpeedStrategy', 'ColossalAIStrategy')
WEIGHTS_ONLY = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'


class Unreadable(InputError):
    """A file is damaged: empty, truncated, or no checkpoint at all."""


def is_first_process(cfg: Config) -> bool:
    """Whether this is the process that checks and downloads, before torch.distributed stands."""
    rank = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}
    return int(os.environ.get(rank.get(cfg.get('launcher', 'none'), ''), 0)) == 0


def set_data_root(cfg: Config, root: str) -> None:
    """Read every data set of `cfg` from the folder `root`, evaluators' files included.

    Raises:
        InputError: the config's data sets have several roots, so that one cannot replace them.
    """
    loaders = [key for key in cfg if key.endswith('_dataloader') and cfg[key]]
    leaves = [leaf for key in loaders for leaf in leaf_datasets(cfg[key].dataset)]
    roots = {leaf.get('data_root') or '' for leaf in leaves}
    if len(roots) != 1:
        raise InputError(
            f'--data-root cannot replace several data roots ({some(sorted(roots))}); set them '
            'with --cfg-options, or in a config of your own'
        )
    old, new = roots.pop(), os.path.join(root, '')
    for leaf in leaves:
        leaf['data_root'] = new
    for key in [key for key in cfg if key.endswith('_evaluator') and cfg[key]]:
        for _, node in walk(cfg[key]):
            if old and str(node.get('ann_file') or '').startswith(old):
                node['ann_file'] = new + node['ann_file'][len(old) :]


def check_data(cfg: Config, splits: tuple[str, ...], full: bool = False) -> None:
    """Check the data sets and evaluators of `splits` ('train', 'val', 'test')."""
    enter_scope(cfg)
    for split in splits:
        if not cfg.get(f'{split}_dataloader'):
            continue
        evaluator = list(walk(cfg.get(f'{split}_evaluator') or {}))
        annotated = not any(node.get('format_only') for _, node in evaluator)
        for dataset in leaf_datasets(cfg[f'{split}_dataloader'].dataset):
            if summary := check_dataset(dataset, full, annotated):
                print_log(f'{split} data: {summary}')
            else:
                print_log(
                    f'{split} data: not checked, {kind_of(dataset)} reads neither as COCO nor VOC'
                )
            check_num_classes(detector(cfg), config_classes(dataset))
        for path, node in evaluator:
            file = node.get('ann_file')
            if isinstance(file, str) and '://' not in file and not Path(file).is_file():
                place = '.'.join(filter(None, [f'{split}_evaluator', path, 'ann_file']))
                raise InputError(
                    f'{place}={file!r} is not there; name the annotation file that the data set '
                    f'of {split}_dataloader reads'
                )


def check_names(cfg: Config, hooks: Iterable[str] = ()) -> None:
    """Name what would have no effect since it is misspelt: hooks, and keys of the config.

    A key that is near to one of MMEngine's is only told: it may be the config's own.

    Args:
        cfg: a merged config.
        hooks: names of default hooks beside those of the config.

    Raises:
        InputError: a default hook has no type, which a misspelt one lacks.
    """
    own = cfg.get('default_hooks') or {}
    for name, hook in own.items():
        if isinstance(hook, dict) and not hook.get('type'):
            near = nearest(name, {*own, *hooks} - {name})
            raise InputError(
                f'default_hooks.{name}={dict(hook)} has no type'
                f'{near or f"; give default_hooks.{name}.type too"}'
            )
    for key in cfg:
        near = '' if key in RUNNER_KEYS else nearest(key, RUNNER_KEYS, 0.9)
        if near:
            print_log(f'MMEngine reads no {key} of the config{near}', level=logging.WARNING)


def check_unused(work_dir: str) -> None:
    """Raise InputError where a run that begins would overwrite the checkpoints of another."""
    written = re.compile(r'(epoch_\d+|iter_\d+|stopped)\.pth')
    files = [path for path in Path(work_dir).glob('*.pth') if written.fullmatch(path.name)]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    # Whatever the checkpoints are called and wherever they are written, MMEngine names the last.
    found = [path.name for path in (Path(work_dir) / 'last_checkpoint', *files) if path.is_file()]
    if found:
        raise InputError(
            f'{work_dir} holds {some(found)} of a run before, which this one would overwrite; give '
            'another --work-dir, go on with that run by --resume, or move the files away'
        )


def check_sync_bn(cfg: Config, training: bool = True) -> None:
    """Check that BatchNorm over all processes, by a `norm_cfg` or by `sync_bn`, can be had.

    In one process it is BatchNorm, into which MMEngine turns it; several need GPUs to train it.

    Raises:
        InputError: there are several processes and no GPU; `MMSyncBN` without processes; `sync_bn`
            is neither 'torch' nor 'mmcv'.
    """
    everywhere = cfg.get('sync_bn')
    if everywhere not in (None, 'torch', 'mmcv'):
        raise InputError(f"sync_bn={everywhere!r} is unknown; give 'torch', 'mmcv' or None")
    several = cfg.get('launcher', 'none') != 'none'
    without_gpu = several and training and not _has_gpu()
    kinds = {path: kind_of(node) for path, node in walk(cfg.model, 'model')}
    for kind in ('SyncBN', 'SyncBatchNorm', 'MMSyncBN'):
        paths = [path for path, one in kinds.items() if one == kind]
        alone = kind == 'MMSyncBN' and not several
        if paths and (without_gpu or alone):
            need = 'a launcher (tools/dist_train.sh)' if alone else 'GPUs, and torch sees none'
            options = ' '.join(f'{path}.type=BN' for path in paths)
            raise InputError(
                f"{some(paths)} with type='{kind}' needs {need}; give type='BN': "
                f'--cfg-options {options}'
            )
    if everywhere and without_gpu:
        raise InputError(
            f'sync_bn={everywhere!r} needs GPUs, and torch sees none; give sync_bn=None, and each '
            'norm_cfg holds as it is written'
        )


def check_runner(cfg: Config) -> None:
    """Say what becomes of a config with MMEngine's FSDP, DeepSpeed, or a runner of its own.

    Raises:
        InputError: a strategy needs GPUs and there is none; the model is to be sharded by its
            wrapper, where MMEngine's Runner would initialise and save fragments of the weights.
    """
    strategy = kind_of(cfg.get('strategy') or {})
    if strategy in GPU_STRATEGIES and not _has_gpu():
        raise InputError(
            f"strategy.type='{strategy}' needs GPUs and torch sees none; leave runner_type and "
            'strategy out, and several processes train by DistributedDataParallel'
        )
    if 'FullyShardedDataParallel' in kind_of(cfg.get('model_wrapper_cfg') or {}):
        raise InputError(
            "model_wrapper_cfg.type='MMFullyShardedDataParallel' shards the weights before "
            "MMEngine's Runner initialises and saves them; give runner_type='FlexibleRunner' and "
            "strategy.type='FSDPStrategy' in its stead, on GPUs"
        )
    if cfg.get('strategy') and not cfg.get('runner_type'):
        raise InputError(
            f"strategy={dict(cfg.strategy)} has no effect without runner_type='FlexibleRunner'; "
            'give both or neither'
        )
    if cfg.get('runner_type') and is_first_process(cfg):
        print_log(
            f'runner_type={cfg.runner_type!r}: nothing is checked before this run, and it goes '
            'without exact resumption, whole checkpoints and the check of its losses',
            level=logging.WARNING,
        )


def check_pretrained(cfg: Config) -> None:
    """Fetch the weights that `init_cfg` names, so that a missing one stops the run here."""
    nodes = dict(walk(cfg.model, 'model'))
    for path, node in nodes.items():
        source = node.get('checkpoint')
        if kind_of(node) not in PRETRAINED or not source:
            continue
        place = path.removesuffix('.init_cfg')
        options = ''.join(
            f' {place}.{option}={value}'
            for option, value in (('frozen_stages', -1), ('norm_eval', False))
            if option in nodes.get(place, {})
        )
        remedy = (
            f'{_where_to_put(source)}, or start without: --cfg-options {place}.init_cfg=None'
            f'{options} (it then needs a longer schedule)'
        )
        _read(source, f'the pretrained weights {source} of {place}', remedy)


def _where_to_put(source: str) -> str:
    """The file in which torch.hub would keep `source`."""
    if source.startswith('torchvision://'):
        source = get_torchvision_models().get(source.removeprefix('torchvision://'), source)
    if urlparse(source).scheme not in ('http', 'https'):
        return f'name a file that exists instead of {source}'
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    return f'fetch {source} elsewhere and put it at {folder / Path(urlparse(source).path).name}'


def build_model(cfg: Config) -> nn.Module:
    """The detector of `cfg`, not initialised, to check options and checkpoints on.

    Raises:
        InputError: an option of our modules is wrong, or no module has an option of that name.
            Other errors of other modules pass as they are.
    """
    enter_scope(cfg)
    for path, node in walk(cfg.model, 'model'):
        plugins = node.get('plugins')
        if plugins is not None and not (
            isinstance(plugins, (list, tuple))
            and all(kind_of(plugin.get('cfg') or {}) for plugin in plugins)
        ):
            raise InputError(
                f'{path}.plugins={plugins} is no list of plugins with a cfg and its type. To '
                'override, there has to be attention at that place: take the _cbam twin; SSD and '
                'StairNet have theirs in model.neck.plugins'
            )
    try:
        with _process_group(cfg):
            return MODELS.build(copy.deepcopy(detector(cfg)))
    except (KeyError, TypeError, ValueError) as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        ours = Path(__file__).parent in Path(raised_in).parents
        known = ('unexpected keyword argument', 'WithPlugins() missing', ' registry')
        if ours or any(text in str(error) for text in known):
            said = str(error.args[0] if isinstance(error, KeyError) else error)
            said = said.replace(
                'Cannot find None in registry', 'a type is misspelt: Cannot find it in registry'
            )
            key = re.search(r"(\S+) got an unexpected keyword argument '(\w+)'", said)
            if key and 'CBAM' in key[1]:
                said += nearest(key[2], inspect.signature(CBAM).parameters)
            elif key:
                said += places_of(cfg, key[2], key[1].removesuffix('.__init__()'))
            raise InputError(f'the model of this config cannot be built: {said}') from None
        raise


@contextmanager
def _process_group(cfg: Config) -> Iterator[None]:
    """One of this process alone where a norm of the model asks for one while it is built."""
    kinds = [kind_of(node) for _, node in walk(cfg.model)]
    if distributed.is_initialized() or 'MMSyncBN' not in kinds:
        yield
        return
    distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


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


def check_work_dir(cfg: Config) -> None:
    """Check that the run can write where it is to: into its work_dir and its checkpoints' folder.

    Raises:
        InputError: a folder cannot be made or written in; nothing is left behind.
    """
    places = {'the work_dir': cfg.work_dir}
    out = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if out.get('out_dir') and '://' not in str(out['out_dir']):
        places['default_hooks.checkpoint.out_dir'] = out['out_dir']
    for what, place in places.items():
        folder = Path(place).absolute()
        while not folder.exists():
            folder = folder.parent
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f'{what} {place} cannot be written ({folder}: {error.strerror}); give a folder '
                'that can, by --work-dir for one'
            ) from None


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


UNSEEN = dict(
    order='channel-spatial', pools=('avg', 'max'), spatial_pools=('max', 'avg'), act_cfg=None
)


def _gates(cfg: Config) -> dict[str, dict]:
    nodes = walk(detector(cfg), 'model')
    return {path: node for path, node in nodes if kind_of(node) in CBAMS}


def _plain(value: object) -> object:
    if isinstance(value, dict):  # a type may be a class here and its name there
        return kind_of(value), *sorted((key, str(value[key])) for key in value if key != 'type')
    return (value,) if isinstance(value, str) else tuple(value) if value else value


def amp_on_cpu(cfg: Config) -> None:
    """Train in mixed precision without a GPU: `CPUAmpOptimWrapper` in AmpOptimWrapper's place.

    Raises:
        InputError: the config asks for another type than bfloat16; float16 would need its losses
            scaled, for which torch has no scaler that MMEngine uses on the CPU.
    """
    if _has_gpu():
        return
    for path, node in walk(cfg.get('optim_wrapper') or {}, 'optim_wrapper'):
        if kind_of(node) != 'AmpOptimWrapper':
            continue
        dtype = str(node.pop('dtype', None) or 'bfloat16').removeprefix('torch.')
        if dtype != 'bfloat16':
            raise InputError(
                f'{path}.dtype={dtype!r} needs a GPU and torch sees none; mixed precision on the '
                f"CPU is bfloat16: give {path}.dtype='bfloat16', or leave --amp out"
            )
        node.pop('loss_scale', None)  # bfloat16 has float32's range: nothing to scale
        node.pop('use_fsdp', None)  # chooses among scalers alone
        node['type'] = 'CPUAmpOptimWrapper'
        if is_first_process(cfg):
            print_log(
                'mixed precision on the CPU: bfloat16 autocast in training, without loss scaling; '
                'weights, gradients, losses, validation in float32'
            )


def adapt_to_cpu(cfg: Config) -> None:
    """Let several processes train on CPUs: gloo, and DDP without device ids.

    MMEngine's launcher code sets a CUDA device whatever the machine has; a process group that
    stands already is left alone, so it is made here.
    """
    if cfg.get('launcher', 'none') == 'none' or _has_gpu():
        return
    if cfg.launcher != 'pytorch':
        raise InputError(
            f'--launcher {cfg.launcher} needs GPUs and torch sees none; on CPUs use '
            'tools/dist_train.sh (--launcher pytorch)'
        )
    distributed.init_process_group('gloo')
    # What MMEngine's wrap_model sets where no wrapper is given, but for the device ids.
    cfg.model_wrapper_cfg = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **(cfg.get('model_wrapper_cfg') or {}),
        'device_ids': None,
    }


def _has_gpu() -> bool:
    return torch.cuda.is_available()


def _first_line(error: BaseException) -> str:
    return f'{type(error).__name__}: {error}'.strip().splitlines()[0][:200]
