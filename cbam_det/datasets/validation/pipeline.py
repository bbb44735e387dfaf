"""What a data set's pipeline asks of the annotations, and its filter."""

from __future__ import annotations

from ...utils.config import near_hint
from ...utils.errors import InputError
from ...utils.run_config import DataSet
from .content import Content


def check_filter(dataset: DataSet) -> None:
    """Raise InputError for a key of `filter_cfg` that mmdet ignores, or refuses in a test."""
    known_keys = ('filter_empty_gt', 'min_size', 'bbox_min_size')
    for key in dataset.filter_cfg:
        if key not in known_keys:
            raise InputError(
                f'filter_cfg.{key} of {dataset.name} is unknown and would be ignored; '
                f'mmdet knows {", ".join(known_keys)}{near_hint(key, known_keys)}'
            )
    if dataset.test_mode and 'bbox_min_size' in dataset.filter_cfg:
        raise InputError(
            f'filter_cfg.bbox_min_size of {dataset.name} is for training, and mmdet refuses it '
            'with test_mode=True; leave it out there'
        )


def check_extra_annotations(dataset: DataSet, content: Content) -> None:
    """Raise InputError where the pipeline asks for masks or maps that the annotations lack."""
    voc = content.is_voc
    if 'mask' in dataset.extra_annotations:
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
    if 'seg' in dataset.extra_annotations and (voc or not dataset.prefixes.get('seg')):
        remedy = 'give with_seg=False'
        remedy += '' if voc else ", or data_prefix=dict(seg='FOLDER/')"
        raise InputError(
            f"the pipeline's LoadAnnotations has with_seg=True, but {content.file} has no maps "
            f'beside it; {remedy}'
        )
    for step in dataset.mask_transforms if 'mask' not in dataset.extra_annotations else ():
        remedy = f'take {step} out of the pipeline'
        remedy += '' if voc else ', or give LoadAnnotations with_mask=True'
        raise InputError(
            f"the pipeline's {step} works on masks, but {content.file} is read without masks; "
            f'{remedy}'
        )
