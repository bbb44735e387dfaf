"""Replace the data folder in a config."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.config import Config

from ...utils.config import walk
from ...utils.data_config import leaf_datasets
from ...utils.errors import InputError, first_few
from ...utils.value_types import typed


def set_data_root(cfg: Config, root: str) -> None:
    """Make every data set and evaluator of `cfg` read its files from the folder `root`.

    Raises:
        InputError: the config's data sets have several roots.
    """
    keys = [key for key in cfg if key.endswith('_dataloader')]
    loaders = {key: loader for key in keys if (loader := typed(cfg, key, dict | None, ''))}
    leaves = [
        (path, leaf)
        for key, loader in loaders.items()
        for path, leaf in leaf_datasets(
            typed(loader, 'dataset', dict | list, key), f'{key}.dataset'
        )
    ]
    roots = {
        os.path.join(typed(leaf, 'data_root', str | Path | None, path) or '', '')
        for path, leaf in leaves
    }
    if len(roots) != 1:
        raise InputError(
            f'--data-root cannot replace several data roots ({first_few(sorted(roots))}); set them '
            'with --cfg-options, or in your own config'
        )
    old, new = roots.pop(), os.path.join(root, '')
    for _, leaf in leaves:
        leaf['data_root'] = new
    for key in [key for key in cfg if key.endswith('_evaluator') and cfg[key]]:
        for _, node in walk(cfg[key]):
            for name, value in list(node.items()):
                is_input = isinstance(value, str) and name != 'outfile_prefix'
                if old and is_input and value.startswith(old):
                    node[name] = new + value[len(old) :]
