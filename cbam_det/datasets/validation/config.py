"""The data sets of a run's config: where they are, and whether they can be used."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from ...utils.config import detector, enter_scope, kind_of, walk
from ...utils.errors import InputError, some
from .dataset import check_dataset, check_num_classes, config_classes, leaf_datasets


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
                if split != 'train' and summary.shapes > 1:
                    _tell_padding(cfg, split, dataset, summary.shapes)
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


def _tell_padding(cfg: Config, split: str, dataset: dict, shapes: int) -> None:
    """Say that scores depend on the batch where images of different shapes are padded to each
    other: features near an edge see the padding.
    """
    batch = cfg[f'{split}_dataloader'].get('batch_size', 1)
    fixed = any(
        (kind_of(step) == 'Resize' and not step.get('keep_ratio'))
        or (kind_of(step) == 'Pad' and step.get('size'))
        for step in dataset.get('pipeline') or ()
    )
    if batch > 1 and not fixed:
        print_log(
            f'{split}_dataloader.batch_size={batch}: its images have {shapes} different shapes and '
            f'are padded to each other, so that scores depend on the batch; give '
            f'--cfg-options {split}_dataloader.batch_size=1',
            level=logging.WARNING,
        )


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
