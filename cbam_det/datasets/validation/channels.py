"""Check that images have the channels that the backbone and the data preprocessor take.

Otherwise the first iteration ends in an error of a convolution, which names no key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from mmengine.registry import MODELS

from ...utils.config import detector_with_path, registered_class, walk
from ...utils.data_config import DataSet
from ...utils.errors import InputError
from ...utils.options import cfg_options
from ...utils.split_config import Split
from ...utils.value_types import fits

# The channels of an image that mmcv's LoadImageFromFile decodes with each color_type; with
# 'unchanged' they depend on the file.
CHANNELS = dict(color=3, color_ignore_orientation=3, grayscale=1, grayscale_ignore_orientation=1)
LIBRARIES = ('mmdet', 'mmcv', 'mmengine', 'mmpretrain')


def check_channels(cfg: Config, splits: Iterable[Split], names: Collection[str]) -> None:
    """Compare the channels of the images with those of the model's input.

    Nothing is known, and so nothing is checked, of data sets with a transform of another library or
    with tifffile as decoder, of models with a data preprocessor of another library, and of
    backbones of other libraries without `in_channels`.

    Args:
        cfg: the merged config.
        splits: all of its splits, which a remedy must suit.
        names: the splits to check, 'train', 'val' or 'test'.

    Raises:
        InputError: the backbone or the data preprocessor takes another number of channels.
    """
    if not cfg.get('model'):
        return
    model_path, model = detector_with_path(cfg)
    preprocessors = _preprocessors(cfg)
    if not all(kind.__module__.partition('.')[0] in LIBRARIES for _, _, kind in preprocessors):
        return
    wanted = _input_channels(model.get('backbone'))
    loaded = {
        place: color_type
        for split in splits
        for dataset in split.data_sets
        for place, color_type in _loaders(dataset)
    }
    checked = [place for place in loaded if place.partition('_')[0] in names]
    if wanted:
        _check_backbone(f'{model_path}.backbone.in_channels', wanted, loaded, checked)
    if any(CHANNELS[loaded[place]] == 1 for place in checked):
        for path, node, kind in preprocessors:
            if issubclass(kind, ImgDataPreprocessor):
                _check_preprocessor(path, node)


def _input_channels(backbone: object) -> int | None:
    """The channels of the images that a backbone takes; None if they are unknown."""
    if not isinstance(backbone, Mapping):
        return None
    channels = backbone.get('in_channels')
    if channels is not None:
        return channels if isinstance(channels, int) else None
    kind = registered_class(MODELS, backbone.get('base_type') or backbone.get('type'))
    # Each backbone of mmdet takes three channels by default.
    return 3 if kind is not None and kind.__module__.startswith('mmdet.') else None


def _loaders(dataset: DataSet) -> Iterator[tuple[str, str]]:
    """The key path and the color_type of a data set's image loader, if no other step changes it."""
    has_objects = len(dataset.pipeline) != (dataset.step_count or 0)
    if has_objects or any(
        'Gray' in step.name or not step.is_of(*LIBRARIES) for step in dataset.steps
    ):
        return
    for number, step in enumerate(dataset.pipeline):
        color_type = step.options.get('color_type', 'color')
        decoder = step.options.get('imdecode_backend')  # tifffile ignores color_type
        is_known = color_type in list(CHANNELS) and decoder != 'tifffile'
        if step.name == 'LoadImageFromFile' and is_known:
            yield f'{dataset.place}.pipeline.{number}', color_type


def _check_backbone(
    key: str, wanted: int, loaded: Mapping[str, str], checked: Sequence[str]
) -> None:
    wrong = [place for place, color_type in loaded.items() if CHANNELS[color_type] != wanted]
    first = next((place for place in wrong if place in checked), None)
    if first is None:
        return
    color_type = loaded[first]
    remedies = []
    if len(set(map(CHANNELS.get, loaded.values()))) == 1:
        remedies.append(cfg_options({key: CHANNELS[color_type]}))
    if wanted in (1, 3):
        other = 'color' if wanted == 3 else 'grayscale'
        remedies.append(cfg_options({f'{place}.color_type': other for place in wrong}))
    raise InputError(
        f'{first}.color_type={color_type!r} loads images of {CHANNELS[color_type]} channels, '
        f'but {key}={wanted}; give {", or ".join(remedies)}'
    )


def _preprocessors(cfg: Config) -> list[tuple[str, dict, type]]:
    """The key path, the config and the class of each data preprocessor."""
    nodes = dict(walk(cfg.model, 'model'))
    if cfg.get('data_preprocessor'):
        nodes['data_preprocessor'] = cfg.data_preprocessor
    kinds = {path: registered_class(MODELS, node.get('type')) for path, node in nodes.items()}
    return [
        (path, nodes[path], kind)
        for path, kind in kinds.items()
        if kind is not None and issubclass(kind, BaseDataPreprocessor)
    ]


def _check_preprocessor(path: str, node: dict) -> None:
    """Raise InputError if a data preprocessor cannot take images of one channel."""
    options: dict[str, object] = {
        key: [round(sum(node[key]) / 3, 2)]
        for key in ('mean', 'std')
        if fits(node.get(key), list[float]) and len(node[key]) == 3
    }
    options |= {key: False for key in ('bgr_to_rgb', 'rgb_to_bgr') if node.get(key)}
    if options:
        remedy = cfg_options({f'{path}.{key}': value for key, value in options.items()})
        raise InputError(
            f'{", ".join(options)} of {path} are for images of 3 channels, but a pipeline '
            f"loads images of 1 (color_type='grayscale'); give {remedy}"
        )
