"""Write configs/metafile.yml: all configs in OpenMMLab's format, with their results.

The results of a config are means over the seeds of a study's row. The row must use the config
without overrides, or with overrides that all comparable rows have (bfloat16 on CPUs, for example);
the entry then lists them. `mim search` reads the file through model-index.yml.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from benchmarks.pages import write_or_check
from cbam_det.studies.records import records
from cbam_det.studies.study import Row, Study, read_study
from cbam_det.utils.errors import InputError
from cbam_det.utils.exits import one_line_errors

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
# Data set by the end of a config's name; all others use COCO, as in mmdet.
DATASETS = {
    '_bccd': 'BCCD',
    '_digits': 'digits',
    '_digits_voc': 'digits',
    '_voc07': 'PASCAL VOC 2007',
    '_voc': 'PASCAL VOC 2007+2012',
}
CLASSIFIED = {'imagenet': 'ImageNet-1k', 'tiny_imagenet': 'Tiny-ImageNet'}
# OpenMMLab's names of the metrics.
METRICS = {
    'AP': 'box AP',
    'AP50': 'box AP50',
    'AP75': 'box AP75',
    'Top-1': 'Top 1 Accuracy',
    'Top-5': 'Top 5 Accuracy',
}


def dataset_of(config: str) -> str:
    """The data set of a config such as `imagenet/resnet50_cbam`."""
    folder, _, name = config.rpartition('/')
    if folder:
        return CLASSIFIED[folder]
    return next((data for end, data in DATASETS.items() if name.endswith(end)), 'COCO')


def shared_overrides(study: Study, row: Row) -> dict[str, object]:
    """The overrides that all rows with the same metrics share, if they have several configs."""
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
    """Config, metadata and results in percent of each row without own overrides, and of the demo.

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
            keys = study.metrics_of(row)
            yield row.config, metadata, means(runs, keys, study.scale_of(row))
    demo = json.loads((results / 'demo.json').read_text(encoding='utf-8'))
    keys = {'AP': 'coco/bbox_mAP', 'AP50': 'coco/bbox_mAP_50', 'AP75': 'coco/bbox_mAP_75'}
    metadata = {'Study': 'demo', 'Runs': 1}
    yield demo['config'].removesuffix('.py'), metadata, means([demo], keys, 100)


def means(runs: list[dict], keys: Mapping[str, str], scale: float) -> dict[str, float]:
    """OpenMMLab's metrics of runs: means in percent with one decimal, as it prints them.

    A metric is left out if a run has null there, because its data had nothing to score.

    Args:
        runs: records.
        keys: metric -> its key in the records.
        scale: the factor from the records to percent.
    """
    values = {name: [run['metrics'][key] for run in runs] for name, key in keys.items()}
    return {
        METRICS[name]: round(scale * statistics.fmean(scores), 1)
        for name, scores in values.items()
        if name in METRICS and None not in scores
    }


def metafile(configs: Path, results: Path, studies: Path) -> str:
    """The text of configs/metafile.yml.

    Raises:
        InputError: a study or a record cannot be read, or a record is of an unknown config.
    """
    names = config_names(configs)
    measured: dict[str, tuple[dict, dict]] = {}
    for name, metadata, metrics in figures(results, studies):
        if name not in names:
            raise InputError(f'{results} has a record of {name}, but {configs} has no such config')
        measured.setdefault(name, (metadata, metrics))
    models = []
    for name in names:
        metadata, metrics = measured.get(name, ({}, {}))
        data = dataset_of(name)
        model: dict[str, object] = {'Name': name.rpartition('/')[2]}
        for part, collection in (('cbam', 'CBAM'), ('se', 'SENet')):
            if part in name.split('_'):
                model['In Collection'] = collection
        model['Config'] = f'configs/{name}.py'
        model['Metadata'] = {'Training Data': data, **metadata}
        if metrics:
            task = 'Image Classification' if '/' in name else 'Object Detection'
            model['Results'] = [{'Task': task, 'Dataset': data, 'Metrics': metrics}]
        models.append(model)
    content = {'Collections': COLLECTIONS, 'Models': models}
    return HEAD + yaml.safe_dump(content, sort_keys=False, width=100)


def config_names(configs: Path) -> list[str]:
    """The configs as paths without `.py`; the fragments in `_base_` are left out."""
    paths = (path.relative_to(configs) for path in configs.rglob('*.py'))
    return sorted(path.with_suffix('').as_posix() for path in paths if '_base_' not in path.parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='example: python -m benchmarks.metafile --check'
    )
    parser.add_argument(
        '--check', action='store_true', help='write nothing; fail if the file differs'
    )
    args = parser.parse_args()
    file = ROOT / 'configs' / 'metafile.yml'
    text = metafile(ROOT / 'configs', ROOT / 'results', ROOT / 'experiments')
    write_or_check(file, text, args.check, 'the records', 'benchmarks.metafile')


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
