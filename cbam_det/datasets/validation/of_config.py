"""The splits of a config for the doctor: data that only a config can describe.

Other folders than COCO's and VOC's, several files of a loader, images and XMLs side by side.
"""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from ...utils.config import enter_scope
from ...utils.errors import InputError
from ...utils.run_config import DataSet, leaf_datasets
from ...utils.run_config import Split as LoaderSplit
from .content import Content
from .dataset import read_annotations
from .folder import Split, split_name


def config_splits(cfg: Config) -> list[Split]:
    """The annotation files that the loaders of a config read, each once for the training and once
    for validation and test together.

    Raises:
        InputError: none of its data sets is COCO's or VOC's and on a local disk; see
            `dataset.read_annotations`.
    """
    enter_scope(cfg)
    splits: dict[tuple, Split] = {}
    for name in ('train', 'val', 'test'):
        loader = LoaderSplit.from_cfg(cfg, name)
        if loader is None:
            continue
        for place, node in leaf_datasets(
            cfg[f'{name}_dataloader'].dataset, f'{name}_dataloader.dataset'
        ):
            dataset = DataSet.from_cfg(node, place)
            file = dataset.root / dataset.ann_file
            key = (file, dataset.image_folder, dataset.voc_folders, name == 'train')
            if key not in splits:
                content = read_annotations(dataset, loader.annotated)
                if content is None:
                    continue
                splits[key] = _split(dataset, content)
                splits[key].annotated = loader.annotated
            evaluators = [
                evaluator.place
                for evaluator in loader.evaluators
                if isinstance(evaluator.ann_file, str)
                and Path(evaluator.ann_file).resolve() == file.resolve()
            ]
            splits[key].places += (place,)
            splits[key].evaluators += tuple(evaluators)
    if not splits:
        raise InputError(
            f'{cfg.filename} has no data set that is read as COCO or VOC from a local disk; give a '
            'config with one, or a folder'
        )
    files = [split.content.file for split in splits.values() if not split.is_voc]
    for split in splits.values():
        if not split.is_voc:
            split.name = split_name(split.content.file, list(dict.fromkeys(files)))
    return list(splits.values())


def _split(dataset: DataSet, content: Content) -> Split:
    if not content.is_voc:
        return Split(content.file.stem, dataset.root, dataset.image_folder, content)
    annotations, images = dataset.voc_folders
    root = dataset.root / (dataset.prefixes.get('sub_data_root') or '')
    name = f'{root.resolve().name}/{content.file.stem}'
    return Split(name, root, images, content, annotations=annotations)
