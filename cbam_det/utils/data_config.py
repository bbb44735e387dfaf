"""What a config says of a data set, typed: its class, its folders, its pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.registry import DATASETS, TRANSFORMS

from .config import kind_of, registered_class, walk
from .data_keys import check_dataset_keys, check_metainfo, joined_sets
from .errors import InputError
from .value_types import typed, wrong_type


@dataclass(frozen=True)
class Transform:
    """A step of a pipeline.

    Attributes:
        class_or_name: its class, or the name of it.
        options: its dictionary.
        inner: the transforms inside of it, at any depth, such as those of a RandomApply.
    """

    class_or_name: type | str
    options: dict = field(default_factory=dict)
    inner: tuple[Transform, ...] = ()

    @classmethod
    def from_cfg(cls, node: dict) -> Transform:
        """From a config's dictionary."""
        inner = [part for path, part in walk(node) if path and part.get('type')]
        return cls(node.get('type') or '', node, tuple(cls(part['type'], part) for part in inner))

    @property
    def name(self) -> str:
        """The name of its class, without a scope."""
        return kind_of(dict(type=self.class_or_name))

    def is_of(self, *packages: str) -> bool:
        """Whether one of these packages has its class."""
        kind = registered_class(TRANSFORMS, self.class_or_name)
        return kind is not None and kind.__module__.partition('.')[0] in packages


@dataclass(frozen=True)
class DataSet:
    """A data set of a config, without its wrappers.

    Attributes:
        class_or_name: its class, or the name of it.
        root: the folder that its other paths are in, '.' where none is given.
        place: its dotted path, 'train_dataloader.dataset.datasets.0'.
        ann_file: the annotations below `root`, '' where it has none.
        prefixes: by mmdet's names, folders below `root`: `img` of COCO, `sub_data_root` of VOC.
        ann_subdir, img_subdir: VOC's folders below `sub_data_root`.
        metainfo_classes: what the config itself says of the classes, None where it says nothing.
        filter_cfg: mmdet's option of that name.
        test_mode: nothing is filtered.
        pipeline: its steps, but for those that are made already.
        step_count: of its steps, those that are made already included; None without a pipeline.
        is_local: it lies on a disk of this machine.
        indices: the part of it that is read, None for all.
    """

    class_or_name: type | str
    root: Path
    place: str = 'dataset'
    ann_file: str = ''
    prefixes: dict[str, str] = field(default_factory=dict)
    ann_subdir: str = 'Annotations'
    img_subdir: str = 'JPEGImages'
    metainfo_classes: tuple[str, ...] | list[str] | str | None = None
    filter_cfg: dict = field(default_factory=dict)
    test_mode: bool = False
    pipeline: tuple[Transform, ...] = ()
    step_count: int | None = None
    is_local: bool = True
    indices: int | list[int] | None = None

    @classmethod
    def from_cfg(cls, node: dict, place: str = 'dataset') -> DataSet:
        """From a config's dictionary.

        Args:
            node: the dictionary.
            place: its dotted path, for messages.

        Raises:
            InputError: a key is of another type, of mmdet 2.x or unknown to the data set's class.
        """
        check_dataset_keys(node, place)
        root = typed(node, 'data_root', str | Path | None, place) or ''
        ann_file = node.get('ann_file') or ''
        prefix = typed(node, 'data_prefix', str | dict | None, place) or {}
        steps = typed(node, 'pipeline', list[dict | Callable] | None, place) or ()
        return cls(
            class_or_name=typed(node, 'type', str | type, place),
            root=Path(root),
            place=place,
            ann_file=ann_file if isinstance(ann_file, str) else '',
            prefixes=dict(prefix) if isinstance(prefix, dict) else dict(img=prefix),  # mmpretrain's
            ann_subdir=typed(node, 'ann_subdir', str, place, cls.ann_subdir),
            img_subdir=typed(node, 'img_subdir', str, place, cls.img_subdir),
            metainfo_classes=check_metainfo(node, place).get('classes'),
            filter_cfg=dict(typed(node, 'filter_cfg', dict | None, place) or {}),
            test_mode=bool(node.get('test_mode')),
            pipeline=tuple(Transform.from_cfg(step) for step in steps if isinstance(step, dict)),
            step_count=len(steps) if 'pipeline' in node else None,
            is_local='://' not in f'{root} {ann_file}',
            indices=typed(node, 'indices', int | list[int] | None, place),
        )

    @property
    def name(self) -> str:
        """The name of its class, without a scope."""
        return kind_of(dict(type=self.class_or_name))

    @property
    def kind(self) -> type | None:
        """Its class, looked up in the scope of the config; None where no registry knows it."""
        return registered_class(DATASETS, self.class_or_name)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names that it stands for, in label order; () where unknown.

        Raises:
            InputError: they are to be read from a file that is not there.
        """
        classes = self.metainfo_classes
        if classes is None:
            classes = getattr(self.kind, 'METAINFO', {}).get('classes') or ()
        if isinstance(classes, str):
            path = Path(classes)
            if not path.is_file():
                raise InputError(
                    f'metainfo.classes={classes!r} is not a file; give a tuple of names, '
                    "('cat',) with a comma where there is one"
                )
            classes = tuple(path.read_text(encoding='utf-8').split('\n'))
        return tuple(name for name in classes if name)

    @property
    def image_folder(self) -> Path:
        """Of COCO's images."""
        return self.root / (self.prefixes.get('img') or '')

    @property
    def voc_folders(self) -> tuple[Path, Path]:
        """Of VOC's annotations and of its images."""
        folder = self.root / (self.prefixes.get('sub_data_root') or '')
        return folder / self.ann_subdir, folder / self.img_subdir

    @property
    def has_fixed_size(self) -> bool:
        """Whether a transform brings all images to one size."""
        return any(
            not step.options.get('keep_ratio')
            if step.name == 'Resize'
            else step.name == 'Pad' and bool(step.options.get('size'))
            for step in self.pipeline
        )


def leaf_datasets(dataset: object, place: str) -> list[tuple[str, dict]]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset, by their paths.

    Raises:
        InputError: one is not a dictionary, or a list that has no wrapper.
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
