"""Check that pipelines get the inputs that they need, and load the ground truth.

MMEngine and mmdet silently accept each of these faults and fail later. Docstrings link the issues
of mmdet.
"""

from __future__ import annotations

from ...utils.data_config import DataSet, Transform
from ...utils.errors import InputError
from ...utils.split_config import Split
from .config_layout import layout_of
from .content import Content

UPSTREAM = ('mmdet', 'mmcv', 'mmengine')
# Transforms that mix several images; they only work in a MultiImageMixDataset.
MIXING = ('Mosaic', 'MixUp', 'YOLOXMixUp', 'CopyPaste')


def check_pipelines(split: Split) -> None:
    """Check the pipelines of a split's data sets, without reading files.

    Raises:
        InputError: a transform needs several images but gets one, training data has no ground
            truth, or no transform packs the model's inputs.
    """
    for dataset in split.data_sets:
        _check_mixing(split, dataset)
        _check_inputs_are_packed(split, dataset)
        if split.name == 'train':
            _check_truth_is_loaded(split, dataset)


def _check_mixing(split: Split, dataset: DataSet) -> None:
    """See https://github.com/open-mmlab/mmdetection/issues/6155."""
    for step in dataset.pipeline:
        if step.name in MIXING and step.is_of('mmdet'):
            raise InputError(
                f'{split.loader}: {step.name} mixes several images, but the pipeline of '
                f'{dataset.name} has only one; wrap the data set: '
                "dict(type='MultiImageMixDataset', dataset=..., pipeline=[...]), and move "
                f'{step.name} and the steps after it to the pipeline of the wrapper'
            )


def _check_inputs_are_packed(split: Split, dataset: DataSet) -> None:
    if layout_of(dataset) is None or dataset.step_count is None:
        return
    if '.dataset.dataset' in dataset.place:  # its wrapper may have a pipeline that packs
        return
    may_pack = len(dataset.pipeline) < dataset.step_count or any(
        step.name.startswith('Pack') or not step.is_of(*UPSTREAM) for step in dataset.steps
    )
    if not may_pack:
        raise InputError(
            f'{dataset.place}.pipeline has no PackDetInputs, so the model gets no images; add '
            "dict(type='PackDetInputs') as its last step"
        )


def _check_truth_is_loaded(split: Split, dataset: DataSet) -> None:
    if layout_of(dataset) is None:  # a classifier's data set only has labels
        return
    if dataset.pipeline and not may_load_truth(dataset):
        raise InputError(
            f'{split.loader}: the pipeline of {dataset.name} loads no annotations, so there is '
            "nothing to learn; add dict(type='LoadAnnotations', with_bbox=True) after "
            'LoadImageFromFile'
        )


def is_read_by_opencv(dataset: DataSet) -> bool:
    """Whether a pipeline decodes images by OpenCV, as `images.decode` does.

    True without a pipeline, as the wrapper of the data set may have it.
    """
    return not dataset.step_count or any(
        step.name == 'LoadImageFromFile'
        and step.is_of('mmcv', 'mmdet')
        and step.options.get('imdecode_backend', 'cv2') in ('cv2', None)
        for step in dataset.steps
    )


def may_load_truth(dataset: DataSet) -> bool:
    """Whether a pipeline may load annotations.

    True if a transform, or one inside it, loads them, or comes from another library.
    """
    return any(
        step.name == 'TestTimeAug'
        or (loads_annotations(step) and not step.name.startswith('Filter'))
        or not step.is_of(*UPSTREAM)
        for step in dataset.steps
        if step.name
    )


def ignores_truth(dataset: DataSet) -> bool:
    """Whether a pipeline replaces the annotations by empty ones, as for unlabelled images."""
    return any(step.name == 'LoadEmptyAnnotations' for step in dataset.steps)


def ignores_orientation(dataset: DataSet) -> bool:
    """Whether a pipeline reads images without their EXIF orientation."""
    color_types = [str(step.options.get('color_type')) for step in dataset.pipeline]
    return any(kind.endswith(('ignore_orientation', 'unchanged')) for kind in color_types)


def check_extra_annotations(dataset: DataSet, content: Content) -> None:
    """Raise InputError if the pipeline needs masks or maps that the annotations do not have."""
    if ignores_truth(dataset):
        return
    voc = content.is_voc
    with_mask, with_seg = (
        any(loads_annotations(step) and step.options.get(option) for step in dataset.pipeline)
        for option in ('with_mask', 'with_seg')
    )
    if with_mask:
        annotations = content.raw.get('annotations') or []
        used = [annotation for annotation in annotations if not annotation.get('ignore')]
        without_mask = sum(not annotation.get('segmentation') for annotation in used)
        if without_mask or not annotations:
            problem = 'has no masks'
            if annotations:
                problem = f'has no segmentation in {without_mask} of {len(used)} annotations'
            remedy = 'give with_mask=False (and a model without a mask_head)'
            remedy += ", as VOC's XMLs have none" if voc else ', or annotate masks'
            raise InputError(
                f"the pipeline's LoadAnnotations has with_mask=True, but {content.file} {problem}; "
                f'{remedy}'
            )
    if with_seg and (voc or not dataset.prefixes.get('seg')):
        remedy = 'give with_seg=False'
        remedy += '' if voc else ", or data_prefix=dict(seg='FOLDER/')"
        raise InputError(
            f"the pipeline's LoadAnnotations has with_seg=True, but {content.file} has no "
            f'segmentation maps; {remedy}'
        )
    for step in () if with_mask else dataset.pipeline:
        if step.options.get('by_mask'):
            remedy = f'remove {step.name} from the pipeline'
            remedy += '' if voc else ', or give LoadAnnotations with_mask=True'
            raise InputError(
                f"the pipeline's {step.name} needs masks, but {content.file} is read without "
                f'masks; {remedy}'
            )


def loads_annotations(step: Transform) -> bool:
    """Whether a transform loads annotations, by its name."""
    return 'Annotations' in step.name
