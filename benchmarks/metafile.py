"""Write configs/metafile.yml: every leaf as OpenMMLab lists models, with its figures; or check it.

A leaf's figures are means over the seeds of a study's row that has the leaf as it is, or with what
all rows measured alike override (bfloat16 on CPUs, say), which the entry then lists. `mim search`
reads the file through model-index.yml.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmarks.pages import write_or_check
from cbam_det.studies.records import records
from cbam_det.studies.study import Row, Study, read_study
from cbam_det.utils.errors import InputError, one_line_errors

ROOT = Path(__file__).resolve().parents[1]
HEAD = '# Written by `python -m benchmarks.metafile` from configs/ and results/.\n'
COLLECTIONS = [
    {
        'Name': 'CBAM',
        'Metadata': {'Architecture': ['CBAM']},
        'Paper': {
            'URL': 'https://arxiv.org/abs/1807.06521',
            'Title': 'CBAM: Convolutional Block Attention Module',
        },
        'README': 'README.md',
    },
    {
        'Name': 'SENet',
        'Metadata': {'Architecture': ['Squeeze-and-Excitation']},
        'Paper': {
            'URL': 'https://arxiv.org/abs/1709.01507',
            'Title': 'Squeeze-and-Excitation Networks',
        },
        'README': 'README.md',
    },
]
# By the end of a leaf's name; mmdet's COCO where none of these.
DATASETS = {
    '_bccd': 'BCCD',
    '_digits': 'digits',
    '_digits_voc': 'digits',
    '_voc07': 'PASCAL VOC 2007',
    '_voc': 'PASCAL VOC 2007+2012',
}
CLASSIFIED = {'imagenet': 'ImageNet-1k', 'tiny_imagenet': 'Tiny-ImageNet'}
# OpenMMLab's names of the figures.
METRICS = {
    'AP': 'box AP',
    'AP50': 'box AP50',
    'AP75': 'box AP75',
    'Top-1': 'Top 1 Accuracy',
    'Top-5': 'Top 5 Accuracy',
}


def dataset_of(leaf: str) -> str:
    """What a leaf, `imagenet/resnet50_cbam` say, is trained and tested on."""
    folder, _, name = leaf.rpartition('/')
    if folder:
        return CLASSIFIED[folder]
    return next((data for end, data in DATASETS.items() if name.endswith(end)), 'COCO')


def shared_overrides(study: Study, row: Row) -> dict[str, object]:
    """The overrides of all rows that have the row's metrics, if they are of several configs."""
    (group,) = [rows for rows in study.measured_alike() if row in rows]
    if len({other_row.config for other_row in group}) == 1:
        return {}
    return {
        key: value
        for key, value in row.overrides.items()
        if all(
            key in other_row.overrides and other_row.overrides[key] == value for other_row in group
        )
    }


def figures(results: Path, studies: Path) -> Iterator[tuple[str, dict, dict]]:
    """Leaf, metadata and figures in percent of each row that has a leaf as it is, and of the demo.

    Raises:
        InputError: a study or a record cannot be read.
    """
    for path in sorted(studies.glob('*.yaml')):
        study = read_study(path)
        for row in study.rows.values():
            shared = shared_overrides(study, row)
            if row.overrides != shared:
                continue
            runs = records(study, results / 'experiments', [row])
            if not runs:
                continue
            metadata: dict[str, object] = {'Study': path.stem, 'Runs': len(runs)}
            if overrides := {**study.options, **shared}:
                pairs = (f'{key}={value}' for key, value in overrides.items())
                metadata['Overrides'] = ' '.join(pairs)
            metrics = {
                METRICS[name]: mean([run['metrics'][key] for run in runs], study.scale_of(row))
                for name, key in study.metrics_of(row).items()
                if name in METRICS
            }
            yield row.config, metadata, metrics
    demo = json.loads((results / 'demo.json').read_text(encoding='utf-8'))
    keys = {'AP': 'bbox_mAP', 'AP50': 'bbox_mAP_50', 'AP75': 'bbox_mAP_75'}
    yield (
        demo['config'].removesuffix('.py'),
        {'Study': 'demo', 'Runs': 1},
        {METRICS[name]: mean([demo['metrics'][f'coco/{key}']], 100) for name, key in keys.items()},
    )


def mean(values: list[float], scale: float) -> float:
    """The mean in percent, with a digit after the point, as OpenMMLab prints it."""
    return round(scale * statistics.fmean(values), 1)


def metafile(configs: Path, results: Path, studies: Path) -> str:
    """The text of configs/metafile.yml.

    Raises:
        InputError: a study or a record cannot be read, or there is no leaf of a record's name.
    """
    leaves = leaf_names(configs)
    measured: dict[str, tuple[dict, dict]] = {}
    for leaf, metadata, metrics in figures(results, studies):
        if leaf not in leaves:
            raise InputError(f'{results} has a record of {leaf}, which is no leaf in {configs}')
        measured.setdefault(leaf, (metadata, metrics))
    models = []
    for leaf in leaves:
        metadata, metrics = measured.get(leaf, ({}, {}))
        data = dataset_of(leaf)
        model: dict[str, object] = {'Name': leaf.rpartition('/')[2]}
        for part, collection in (('cbam', 'CBAM'), ('se', 'SENet')):
            if part in leaf.split('_'):
                model['In Collection'] = collection
        model['Config'] = f'configs/{leaf}.py'
        model['Metadata'] = {'Training Data': data, **metadata}
        if metrics:
            task = 'Image Classification' if '/' in leaf else 'Object Detection'
            model['Results'] = [{'Task': task, 'Dataset': data, 'Metrics': metrics}]
        models.append(model)
    content = {'Collections': COLLECTIONS, 'Models': models}
    return HEAD + yaml.safe_dump(content, sort_keys=False, width=100)


def leaf_names(configs: Path) -> list[str]:
    """The leaves by their path without `.py`; the fragments of `_base_` are none."""
    leaves = (path.relative_to(configs) for path in configs.rglob('*.py'))
    return sorted(leaf.with_suffix('').as_posix() for leaf in leaves if '_base_' not in leaf.parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='example: python -m benchmarks.metafile --check'
    )
    parser.add_argument('--check', action='store_true', help='write nothing; fail on a difference')
    args = parser.parse_args()
    file = ROOT / 'configs' / 'metafile.yml'
    text = metafile(ROOT / 'configs', ROOT / 'results', ROOT / 'experiments')
    write_or_check(file, text, args.check, 'the records', 'benchmarks.metafile')


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
