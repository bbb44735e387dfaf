"""The data sets of a run's config: where they are, and whether they can be used."""

from __future__ import annotations

import logging
import os
import shlex
from functools import partial

from mmengine.config import Config
from mmengine.logging import print_log

from ...utils.config import detector, enter_scope, walk
from ...utils.environment import tool_command
from ...utils.errors import InputError, first_few
from ...utils.options import cfg_options
from ...utils.run_config import DataSet, Split, leaf_datasets
from ...utils.value_types import typed
from .dataset import check_dataset, check_num_classes
from .evaluators import check_evaluators, check_same_classes


def check_data(cfg: Config, splits: tuple[str, ...], full: bool = False) -> None:
    """Check the data sets and evaluators of `splits` ('train', 'val', 'test')."""
    enter_scope(cfg)
    paths: dict[str, frozenset[str]] = {}
    for split in filter(None, (Split.from_cfg(cfg, name) for name in splits)):
        for dataset in split.data_sets:
            if summary := check_dataset(dataset, full, split.annotated, partial(fix_command, cfg)):
                print_log(f'{split.name} data: {summary}')
                paths[split.name] = paths.get(split.name, frozenset()) | summary.paths
                if split.name != 'train' and summary.shapes > 1:
                    _warn_of_padding(split, dataset, summary.shapes)
                check_num_classes(detector(cfg), dataset.classes)
            else:
                print_log(
                    f'{split.name} data: not checked, {dataset.name} reads neither as COCO nor VOC'
                )
        check_evaluators(split, detector(cfg))
    _warn_of_shared_images(paths)
    check_same_classes(
        {
            f'the data set of {split.name}_dataloader': dataset.classes
            for split in filter(None, (Split.from_cfg(cfg, name) for name in ('train', *splits)))
            for dataset in split.data_sets
        }
    )


def _warn_of_shared_images(paths: dict[str, frozenset[str]]) -> None:
    """Say that images of the training are evaluated: they may be on purpose, for a first try."""
    for name in paths.keys() - {'train'}:
        if shared := sorted(paths.get('train', frozenset()) & paths[name]):
            print_log(
                f'{len(shared):,} images of {name}_dataloader are images of train_dataloader too '
                f'({first_few(shared)}), so that scores say less of new ones; take them out of one',
                level=logging.WARNING,
            )


def _warn_of_padding(split: Split, dataset: DataSet, shapes: int) -> None:
    """Say that scores depend on the batch where images of different shapes are padded to each
    other: features near an edge see the padding.
    """
    if split.batch_size > 1 and not dataset.fixed_size:
        loader = f'{split.name}_dataloader'
        print_log(
            f'{loader}.batch_size={split.batch_size}: its images have {shapes} different shapes '
            'and are padded to each other, so that scores depend on the batch; give '
            f'{cfg_options({f"{loader}.batch_size": 1})}',
            level=logging.WARNING,
        )


def fix_command(cfg: Config) -> str:
    """The command that writes clean files for the data of a config, which is to be in a file."""
    words = [*tool_command('check-data'), cfg.filename or 'CONFIG']
    roots = {leaf.get('data_root') or '' for _, leaf in _leaves(cfg)}
    if len(roots) == 1 and (root := roots.pop()):
        words += ['--data-root', os.path.abspath(root)]
    if cfg.filename:
        before = _values(Config.fromfile(cfg.filename))
        changed = {key: value for key, value in _values(cfg).items() if before.get(key) != value}
        words += shlex.split(cfg_options(changed)) if changed else []
    return shlex.join([*words, '--fix'])


def _values(cfg: Config) -> dict[str, object]:
    """The values of a config's data sets that a command line may have changed, by dotted key."""
    return {
        f'{path}.{key}': value
        for place, leaf in _leaves(cfg)
        for path, node in walk({**leaf, 'pipeline': None}, place)
        for key, value in node.items()
        if key not in ('data_root', 'pipeline') and not isinstance(value, dict)
    }


def _leaves(cfg: Config) -> list[tuple[str, dict]]:
    keys = [key for key in cfg if key.endswith('_dataloader')]
    loaders = {key: loader for key in keys if (loader := typed(cfg, key, dict | None, ''))}
    return [
        (path, leaf)
        for key, loader in loaders.items()
        for path, leaf in leaf_datasets(
            typed(loader, 'dataset', dict | list, key), f'{key}.dataset'
        )
    ]


def set_data_root(cfg: Config, root: str) -> None:
    """Read every data set of `cfg` from the folder `root`, evaluators' files included.

    Raises:
        InputError: the config's data sets have several roots, so that one cannot replace them.
    """
    leaves = _leaves(cfg)
    roots = {typed(leaf, 'data_root', str | None, path) or '' for path, leaf in leaves}
    if len(roots) != 1:
        raise InputError(
            f'--data-root cannot replace several data roots ({first_few(sorted(roots))}); set them '
            'with --cfg-options, or in a config of your own'
        )
    old, new = roots.pop(), os.path.join(root, '')
    for _, leaf in leaves:
        leaf['data_root'] = new
    for key in [key for key in cfg if key.endswith('_evaluator') and cfg[key]]:
        for _, node in walk(cfg[key]):
            if old and str(node.get('ann_file') or '').startswith(old):
                node['ann_file'] = new + node['ann_file'][len(old) :]
