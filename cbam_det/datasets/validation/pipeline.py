"""Whether the pipeline of a data set gets what it works on, and gives what is learnt from.

Each fault here is read without a word by MMEngine and mmdet, and ends an epoch later in an
exception or in wrong scores; the threads are named where there is one.
"""

from __future__ import annotations

from ...utils.data_config import DataSet, Transform
from ...utils.errors import InputError
from ...utils.split_config import Split
from .content import Content
from .layouts import layout_of

# Transforms that mix several images, which only a MultiImageMixDataset hands to them.
MIXING = ('Mosaic', 'MixUp', 'YOLOXMixUp', 'CopyPaste')


def check_pipelines(split: Split) -> None:
    """Check the pipelines of a split's data sets, of which no file is read.

    Raises:
        InputError: a transform needs several images and gets one, a training gets no truth, or no
            transform packs the inputs of the model.
    """
    for dataset in split.data_sets:
        _check_mixing(split, dataset)
        _check_inputs_are_packed(split, dataset)
        if split.name == 'train':
            _check_truth_is_loaded(split, dataset)


def _check_mixing(split: Split, dataset: DataSet) -> None:
    """https://github.com/open-mmlab/mmdetection/issues/6155"""
    for step in dataset.pipeline:
        if step.name in MIXING and step.is_of('mmdet'):
            raise InputError(
                f'{split.loader}: {step.name} mixes several images, which the pipeline of '
                f'{dataset.name} cannot give it; wrap the data set: '
                "dict(type='MultiImageMixDataset', dataset=..., pipeline=[...]), with "
                f'{step.name} and what follows in the pipeline of the wrapper'
            )


def _check_inputs_are_packed(split: Split, dataset: DataSet) -> None:
    if layout_of(dataset) is None or dataset.step_count is None:
        return
    if '.dataset.dataset' in dataset.place:  # its wrapper may have a pipeline that packs
        return
    steps = [inner for step in dataset.pipeline for inner in (step, *step.inner)]
    may_pack = len(dataset.pipeline) < dataset.step_count or any(
        step.name.startswith('Pack') or not step.is_of('mmdet', 'mmcv', 'mmengine')
        for step in steps
    )
    if not may_pack:
        raise InputError(
            f'{dataset.place}.pipeline has no PackDetInputs, so the model gets no images; add '
            "dict(type='PackDetInputs') as its last step"
        )


def _check_truth_is_loaded(split: Split, dataset: DataSet) -> None:
    if layout_of(dataset) is None:  # a classifier's has labels alone
        return
    if dataset.pipeline and not may_load_truth(dataset):
        raise InputError(
            f'{split.loader}: the pipeline of {dataset.name} loads no annotations, so there is '
            "nothing to learn; add dict(type='LoadAnnotations', with_bbox=True) after "
            'LoadImageFromFile'
        )


def may_load_truth(dataset: DataSet) -> bool:
    """Whether a pipeline loads annotations, inside other transforms too, or has a transform of
    another library, which may.
    """
    steps = [inner for step in dataset.pipeline for inner in (step, *step.inner)]
    return any(
        step.name == 'TestTimeAug'
        or (_is_loader(step) and not step.name.startswith('Filter'))
        or not step.is_of('mmdet', 'mmcv', 'mmengine')
        for step in steps
        if step.name
    )


def check_extra_annotations(dataset: DataSet, content: Content) -> None:
    """Raise InputError where the pipeline asks for masks or maps that the annotations lack."""
    voc = content.is_voc
    with_mask, with_seg = (
        any(_is_loader(step) and step.options.get(option) for step in dataset.pipeline)
        for option in ('with_mask', 'with_seg')
    )
    if with_mask:
        annotations = content.raw.get('annotations') or []
        used = [annotation for annotation in annotations if not annotation.get('ignore')]
        without_mask = sum(not annotation.get('segmentation') for annotation in used)
        if without_mask or not annotations:
            problem = 'has no masks'
            if annotations:
                problem = f'has {without_mask} of {len(used)} annotations without a segmentation'
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
            f"the pipeline's LoadAnnotations has with_seg=True, but {content.file} has no maps "
            f'beside it; {remedy}'
        )
    for step in () if with_mask else dataset.pipeline:
        if step.options.get('by_mask'):
            remedy = f'take {step.name} out of the pipeline'
            remedy += '' if voc else ', or give LoadAnnotations with_mask=True'
            raise InputError(
                f"the pipeline's {step.name} works on masks, but {content.file} is read without "
                f'masks; {remedy}'
            )


def _is_loader(step: Transform) -> bool:
    return 'Annotations' in step.name
