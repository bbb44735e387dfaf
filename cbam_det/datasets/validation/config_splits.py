"""The annotation files that the data sets of a config read, in folders of any name."""

from __future__ import annotations

from pathlib import Path

from ...utils.data_config import DataSet
from ...utils.run_config import RunConfig
from .content import Content
from .dataset import read_annotations
from .folder import split_name
from .pipeline import ignores_orientation, ignores_truth, is_read_by_opencv
from .splits import AnnotatedSplit


def config_splits(
    run: RunConfig, names: tuple[str, ...] = ('train', 'val', 'test')
) -> list[AnnotatedSplit]:
    """The COCO and VOC annotation files that the dataloaders of a config read.

    A file appears once for training, and once for validation and test together. Unlabelled images
    of a semi-supervised training are apart from these, as their file needs no annotations.

    Args:
        names: the dataloaders to read, 'train', 'val' or 'test'.

    Raises:
        InputError: see `dataset.read_annotations`.
    """
    splits: dict[tuple, AnnotatedSplit] = {}
    for loader in (run.splits[name] for name in names if name in run.splits):
        for dataset in loader.data_sets:
            file = dataset.root / dataset.ann_file
            folders = (dataset.image_folder, dataset.voc_folders)
            ignored = ignores_truth(dataset)
            key = (file, folders, loader.name == 'train', ignored)
            if key not in splits:
                annotated = loader.annotated and not ignored
                content = read_annotations(dataset, annotated)
                if content is None:
                    continue
                splits[key] = _split(dataset, content)
                splits[key].annotated = annotated
            splits[key].partial |= dataset.indices is not None
            splits[key].stored |= ignores_orientation(dataset)
            splits[key].opened &= is_read_by_opencv(dataset)
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
