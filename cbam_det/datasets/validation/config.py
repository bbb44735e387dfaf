"""The data sets of a run's config: where they are, and whether they can be used."""

from __future__ import annotations

import logging
import os

from mmengine.config import Config
from mmengine.logging import print_log

from ...utils.config import detector, enter_scope, walk
from ...utils.errors import InputError, first_few
from ...utils.run_config import DataSet, Split, leaf_datasets
from .dataset import check_dataset, check_num_classes
from .evaluators import check_evaluators, check_same_classes


def check_data(cfg: Config, splits: tuple[str, ...], full: bool = False) -> None:
    """Check the data sets and evaluators of `splits` ('train', 'val', 'test')."""
    enter_scope(cfg)
    for split in filter(None, (Split.from_cfg(cfg, name) for name in splits)):
        for dataset in split.data_sets:
            if summary := check_dataset(dataset, full, split.annotated):
                print_log(f'{split.name} data: {summary}')
                if split.name != 'train' and summary.shapes > 1:
                    _warn_of_padding(split, dataset, summary.shapes)
            else:
                print_log(
                    f'{split.name} data: not checked, {dataset.name} reads neither as COCO nor VOC'
                )
            check_num_classes(detector(cfg), dataset.classes)
        check_evaluators(split, detector(cfg))
    check_same_classes(
        {
            f'the data set of {split.name}_dataloader': dataset.classes
            for split in filter(None, (Split.from_cfg(cfg, name) for name in ('train', *splits)))
            for dataset in split.data_sets
        }
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
            f'--cfg-options {loader}.batch_size=1',
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
            f'--data-root cannot replace several data roots ({first_few(sorted(roots))}); set them '
            'with --cfg-options, or in a config of your own'
        )
    old, new = roots.pop(), os.path.join(root, '')
    for leaf in leaves:
        leaf['data_root'] = new
    for key in [key for key in cfg if key.endswith('_evaluator') and cfg[key]]:
        for _, node in walk(cfg[key]):
            if old and str(node.get('ann_file') or '').startswith(old):
                node['ann_file'] = new + node['ann_file'][len(old) :]
