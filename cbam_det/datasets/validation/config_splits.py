"""The annotation files that the data sets of a config read, in folders of any name."""

from __future__ import annotations

from pathlib import Path

from ...utils.data_config import DataSet
from ...utils.run_config import RunConfig
from .content import Content
from .dataset import read_annotations
from .folder import split_name
from .pipeline import ignores_orientation
from .splits import AnnotatedSplit


def config_splits(
    run: RunConfig, names: tuple[str, ...] = ('train', 'val', 'test')
) -> list[AnnotatedSplit]:
    """The COCO and VOC annotation files that the dataloaders of a config read.

    A file appears at most twice: once for training, and once for validation and test together.

    Args:
        names: the dataloaders to read, 'train', 'val' or 'test'.

    Raises:
        InputError: see `dataset.read_annotations`.
    """
    splits: dict[tuple, AnnotatedSplit] = {}
    for loader in (run.splits[name] for name in names if name in run.splits):
        for dataset in loader.data_sets:
            file = dataset.root / dataset.ann_file
            key = (file, dataset.image_folder, dataset.voc_folders, loader.name == 'train')
            if key not in splits:
                content = read_annotations(dataset, loader.annotated)
                if content is None:
                    continue
                splits[key] = _split(dataset, content)
                splits[key].annotated = loader.annotated
            splits[key].partial |= dataset.indices is not None
            splits[key].stored |= ignores_orientation(dataset)
            splits[key].places += (dataset.place,)
            splits[key].evaluators += tuple(
                evaluator.place
                for evaluator in loader.evaluators
                if evaluator.ann_file and Path(evaluator.ann_file).resolve() == file.resolve()
            )
    files = [split.content.file for split in splits.values() if not split.is_voc]
    for split in splits.values():
        if not split.is_voc:
            split.name = split_name(split.content.file, list(dict.fromkeys(files)))
    return list(splits.values())


def _split(dataset: DataSet, content: Content) -> AnnotatedSplit:
    if not content.is_voc:
        return AnnotatedSplit(content.file.stem, dataset.root, dataset.image_folder, content)
    annotations, images = dataset.voc_folders
    root = dataset.root / (dataset.prefixes.get('sub_data_root') or '')
    name = f'{root.resolve().name}/{content.file.stem}'
    return AnnotatedSplit(name, root, images, content, annotations=annotations)
