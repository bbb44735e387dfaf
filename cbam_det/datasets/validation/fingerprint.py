"""A digest of a data set's annotations, which records of runs contain."""

from __future__ import annotations

import hashlib

from ...utils.data_config import DataSet
from ...utils.errors import InputError
from ...utils.installation import tool_command
from .config_layout import COCO_LAYOUT, VOC_LAYOUT, existing_file
from .voc import read_list


def fingerprint(dataset: DataSet) -> str:
    """The first twelve digits of the SHA-256 of a data set's annotations, without the images.

    For VOC they cover the list and the XML of each image in it. '' if the data set has no
    annotation file, or is not on a local disk.

    Raises:
        InputError: the file is missing.
    """
    if not dataset.ann_file or not dataset.is_local:
        return ''
    if dataset.name == 'CustomDataset':  # mmpretrain's: a list of images and labels
        file = dataset.root / dataset.ann_file
        if not file.is_file():
            command = tool_command('prepare-tiny-imagenet', dataset.root)
            raise InputError(f'no list {file}; write that of Tiny-ImageNet: {command}')
        return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    voc = dataset.ann_file.endswith('.txt')
    file = existing_file(dataset, VOC_LAYOUT if voc else COCO_LAYOUT)
    digest = hashlib.sha256(file.read_bytes())
    if voc:
        annotations, _ = dataset.voc_folders
        for name in read_list(file):
            xml = annotations / f'{name.strip()}.xml'
            digest.update(xml.read_bytes() if xml.is_file() else b'')
    return digest.hexdigest()[:12]
