"""Typed descriptions of the data sets of a config: class, folders, pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS, TRANSFORMS

from .config import kind_of, registered_class, walk
from .data_keys import check_dataset_keys, checked_metainfo, joined_sets
from .errors import InputError
from .value_types import typed, wrong_type


@dataclass(frozen=True)
class Transform:
    """A step of a pipeline.

    Attributes:
        class_or_name: its class, or the name of its class.
        options: its dictionary in the config.
        inner: the transforms inside it at any depth, for example in a RandomApply.
    """

    class_or_name: type | str
    options: dict = field(default_factory=dict)
    inner: tuple[Transform, ...] = ()

    @classmethod
    def from_cfg(cls, node: dict) -> Transform:
        """Describe a transform of a config."""
        inner = [part for path, part in walk(node) if path and part.get('type')]
        return cls(node.get('type') or '', node, tuple(cls(part['type'], part) for part in inner))

    @property
    def name(self) -> str:
        """The name of its class without the scope."""
        return kind_of(dict(type=self.class_or_name))

    def is_of(self, *packages: str) -> bool:
        """Whether its class is from one of these packages."""
        kind = registered_class(TRANSFORMS, self.class_or_name)
        return kind is not None and kind.__module__.partition('.')[0] in packages


@dataclass(frozen=True)
class DataSet:
    """A data set of a config, without its wrappers.

    Attributes:
        class_or_name: its class, or the name of its class.
        root: the folder of its relative paths, '.' if none is given.
        place: its key path, such as 'train_dataloader.dataset.datasets.0'.
        ann_file: the annotation file, relative to `root`, '' if it has none.
        prefixes: folders relative to `root`, by mmdet's names: `img` in COCO, `sub_data_root` in
            VOC.
        ann_subdir, img_subdir: VOC's folders, relative to `sub_data_root`.
        map_suffix: the ending of COCO's semantic maps.
        metainfo_classes: the classes that the config itself gives, None if it gives none.
        filter_cfg: mmdet's option of that name.
        test_mode: whether filtering is off.
        pipeline: its transforms, without those that the config has as objects.
        step_count: the number of its transforms, with such objects; None if it has no pipeline.
        is_local: whether its annotations and images are on a disk of this machine.
        indices: the images that are read: their indices, or how many; None for all.
    """

    class_or_name: type | str
    root: Path
    place: str = 'dataset'
    ann_file: str = ''
    prefixes: dict[str, str] = field(default_factory=dict)
    ann_subdir: str = 'Annotations'
    img_subdir: str = 'JPEGImages'
    map_suffix: str = '.png'
    metainfo_classes: tuple[str, ...] | list[str] | str | None = None
    filter_cfg: dict = field(default_factory=dict)
    test_mode: bool = False
    pipeline: tuple[Transform, ...] = ()
    step_count: int | None = None
    is_local: bool = True
    indices: int | list[int] | None = None

    @classmethod
    def from_cfg(cls, node: dict, place: str = 'dataset') -> DataSet:
        """Describe a data set of a config.

        Args:
            node: its dictionary.
            place: its key path, for messages.

        Raises:
            InputError: a value has the wrong type, or a key is one of mmdet 2.x or unknown to the
                data set's class.
        """
        check_dataset_keys(node, place)
        root = typed(node, 'data_root', str | Path | None, place) or ''
        ann_file = node.get('ann_file') or ''
        prefix = typed(node, 'data_prefix', str | dict | None, place) or {}
        if isinstance(prefix, str):
            prefix = dict(img=prefix)  # as in mmpretrain
        steps = typed(node, 'pipeline', list[dict | Callable] | None, place) or ()
        return cls(
            class_or_name=typed(node, 'type', str | type, place),
            root=Path(root),
            place=place,
            ann_file=ann_file if isinstance(ann_file, str) else '',
            prefixes=dict(prefix),
            ann_subdir=typed(node, 'ann_subdir', str, place, cls.ann_subdir),
            img_subdir=typed(node, 'img_subdir', str, place, cls.img_subdir),
            map_suffix=typed(node, 'seg_map_suffix', str, place, cls.map_suffix),
            metainfo_classes=checked_metainfo(node, place).get('classes'),
            filter_cfg=dict(typed(node, 'filter_cfg', dict | None, place) or {}),
            test_mode=bool(node.get('test_mode')),
            pipeline=tuple(Transform.from_cfg(step) for step in steps if isinstance(step, dict)),
            step_count=len(steps) if 'pipeline' in node else None,
            is_local=all(is_local(part) for _, part in walk(node)),
            indices=typed(node, 'indices', int | list[int] | None, place),
        )

    @property
    def name(self) -> str:
        """The name of its class without the scope."""
        return kind_of(dict(type=self.class_or_name))

    @property
    def steps(self) -> list[Transform]:
        """The transforms of its pipeline, and those inside them."""
        return [part for step in self.pipeline for part in (step, *step.inner)]

    @property
    def kind(self) -> type | None:
        """Its class, looked up in the scope of the config; None if no registry has it."""
        return registered_class(DATASETS, self.class_or_name)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in label order; () if unknown.

        Raises:
            InputError: the file that should contain them does not exist.
        """
        classes = self.metainfo_classes
        if classes is None:
            classes = getattr(self.kind, 'METAINFO', {}).get('classes') or ()
        if isinstance(classes, str):
            if not Path(classes).is_file():
                raise InputError(
                    f'metainfo.classes={classes!r} is not a file; give a tuple of names, '
                    "such as ('cat', 'dog'), or ('cat',) for a single class"
                )
            classes = list_from_file(classes)
        return tuple(classes)

    @property
    def image_folder(self) -> Path:
        """The folder of COCO's images."""
        return self.root / (self.prefixes.get('img') or '')

    @property
    def voc_folders(self) -> tuple[Path, Path]:
        """The folders of VOC's annotations and images."""
        folder = self.root / (self.prefixes.get('sub_data_root') or '')
        return folder / self.ann_subdir, folder / self.img_subdir

    @property
    def has_fixed_size(self) -> bool:
        """Whether a transform resizes or pads all images to one size."""
        return any(
            not step.options.get('keep_ratio')
            if step.name == 'Resize'
            else step.name == 'Pad' and bool(step.options.get('size'))
            for step in self.pipeline
        )


def is_local(node: dict) -> bool:
    """Whether a node of a config reads its files from a disk of this machine.

    A path such as `s3://…` is elsewhere. With `backend_args`, paths without a scheme can be too.
    """
    backend_args = node.get('backend_args')
    backend = backend_args.get('backend', 'local') if isinstance(backend_args, dict) else 'local'
    paths = [node.get(key) for key in ('data_root', 'ann_file', 'seg_prefix')]
    return backend == 'local' and not any('://' in str(path) for path in paths)


def leaf_datasets(dataset: object, place: str) -> list[tuple[str, dict]]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset, with their key paths.

    Raises:
        InputError: a data set is a list without a wrapper, or is not a dictionary.
    """
    if isinstance(dataset, (list, tuple)):
        raise joined_sets(place, [node for node in dataset if isinstance(node, dict)])
    if not isinstance(dataset, dict):
        raise wrong_type(place, dataset, dict)
    if 'datasets' in dataset:
        inner = typed(dataset, 'datasets', list, place)
        return [
            leaf
            for number, node in enumerate(inner)
            for leaf in leaf_datasets(node, f'{place}.datasets.{number}')
        ]
    if 'dataset' in dataset:
        return leaf_datasets(dataset['dataset'], f'{place}.dataset')
    return [(place, dataset)]
