"""The tools, run as by a user: train, resume, test, several processes, pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mmdet.registry
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import Registry
from PIL import Image

from cbam_det.checkpoints.loading import check_same_gates
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import ModelConfig
from cbam_det_tools.test import add_tta

from ..conftest import CONFIG, CONFIGS, QUICK, ROOT, SMALL, free_port, in_process

COCO_NUMBERS = {
    *(f'coco/bbox_{name}' for name in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')),
    *(f'coco/bbox_AR{name}@1000' for name in ('', '_s', '_m', '_l')),
    *('coco/bbox_AR@100', 'coco/bbox_AR@300'),
}


def metrics(work_dir: Path) -> dict[str, float]:
    newest = max(work_dir.glob('*/metrics.json'))
    return json.loads(newest.read_text())['metrics']


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


def test_training_writes_checkpoints_log_and_scores(trained):
    state = weights(trained / 'work/epoch_2.pth')
    assert sum('cbam.channel_gate.fc1.weight' in key for key in state) == 16
    assert (trained / 'work/last_checkpoint').read_text() == str(trained / 'work/epoch_2.pth')
    rows = [
        json.loads(line) for line in next((trained / 'work').glob('*/vis_data/scalars.json')).open()
    ]
    assert [row['step'] for row in rows if 'loss' in row] == [1, 2, 3, 4, 5, 6]
    assert [row['step'] for row in rows if 'coco/bbox_mAP' in row] == [1, 2]


def test_test_tool_gives_coco_s_twelve_numbers_and_each_class(trained, digits, run):
    done = run(
        *('test.py', CONFIG, 'work/epoch_2.pth', '--work-dir', 'tested', '--data-root', digits),
        *('--out', 'predictions.pkl', '--show-dir', 'shown', '--cfg-options', *QUICK),
        cwd=trained,
    )
    assert len(re.findall(r'^ Average (Precision|Recall) ', done.stdout, re.MULTILINE)) == 12
    assert 'metrics written to' in done.stdout + done.stderr
    scores = metrics(trained / 'tested')
    assert set(scores) >= COCO_NUMBERS
    keys = {key for key in scores if key.endswith('_precision')}
    classes = {key.removeprefix('coco/').removesuffix('_precision') for key in keys}
    assert classes == class_names(digits)
    assert (trained / 'predictions.pkl').stat().st_size
    assert len(list((trained / 'tested').glob('*/shown/*.jpg'))) == SMALL.val
    assert 'OneDL' not in done.stdout + done.stderr


def class_names(digits: Path) -> set[str]:
    content = json.loads((digits / 'annotations/instances_val2017.json').read_text())
    return {category['name'] for category in content['categories']}


def test_test_time_augmentation_runs(trained, digits, run):
    options = ('--tta', '--data-root', digits, '--cfg-options', *QUICK)
    run('test.py', CONFIG, 'work/epoch_2.pth', '--work-dir', 'tta', *options, cwd=trained)
    assert set(metrics(trained / 'tta')) >= COCO_NUMBERS


def test_test_time_augmentation_changes_each_of_joined_sets():
    values = Config.fromfile(CONFIG).to_dict()
    dataset = values['test_dataloader']['dataset']
    joined = dict(type='ConcatDataset', datasets=[dataset, dict(dataset)])
    cfg = Config(dict(values, test_dataloader=dict(dataset=joined)))
    add_tta(cfg)
    pipelines = [part.pipeline for part in cfg.test_dataloader.dataset.datasets]
    assert [pipeline[-1].type for pipeline in pipelines] == ['TestTimeAug'] * 2
    assert cfg.model.type == 'DetTTAModel'


def test_resume_continues_from_the_last_epoch(trained, digits, run, tmp_path):
    shutil.copytree(trained / 'work', tmp_path / 'work')
    (tmp_path / 'work/last_checkpoint').write_text(str(tmp_path / 'work/epoch_2.pth'))
    options = ('--resume', '--data-root', digits, '--cfg-options', *QUICK)
    done = run(
        *('train.py', CONFIG, '--work-dir', 'work', *options, 'train_cfg.max_epochs=3'),
        cwd=tmp_path,
    )
    output = done.stdout + done.stderr
    assert 'resumed epoch: 2, iter: 6' in output
    assert 'Epoch(train) [3]' in output and 'Epoch(train) [2]' not in output
    assert torch.load(tmp_path / 'work/epoch_3.pth', weights_only=False)['meta']['iter'] == 9


def test_resume_of_a_finished_training_changes_nothing_and_succeeds(trained, digits, run, tmp_path):
    shutil.copytree(trained / 'work', tmp_path / 'work')
    (tmp_path / 'work/last_checkpoint').write_text(str(tmp_path / 'work/epoch_2.pth'))
    before = weights(tmp_path / 'work/epoch_2.pth')
    options = ('--resume', '--data-root', digits, '--cfg-options', *QUICK)
    done = run(
        *('train.py', CONFIG, '--work-dir', 'work', *options, 'train_cfg.max_epochs=2'),
        cwd=tmp_path,
    )
    assert 'reached epoch 2 of 2; raise train_cfg.max_epochs' in done.stdout + done.stderr
    after = weights(tmp_path / 'work/epoch_2.pth')
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not (tmp_path / 'work/epoch_3.pth').exists()


class Name(str):
    """The name of a class, printed without quotes in a config."""

    __repr__ = str.__str__


def pure_python(cfg: Config) -> str:
    """A config in MMEngine's pure Python style, with classes instead of registered names."""
    registries = [
        registry
        for name, registry in vars(mmdet.registry).items()
        if isinstance(registry, Registry) and not name.startswith('MMENGINE')
    ]
    imports = set()

    def classes(value: object, key: str = '') -> object:
        if isinstance(value, dict):
            items = {name: child for name, child in value.items() if name != '_scope_'}
            return {name: classes(child, name) for name, child in items.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(classes, value))
        is_type = key in ('type', 'base_type')
        kinds = [registry.get(value) for registry in registries] if is_type else []
        for kind in filter(None, kinds):
            imports.add(f'from {kind.__module__} import {kind.__name__}')
            return Name(kind.__name__)
        return value

    content = cfg.to_dict() | dict(default_scope=None, custom_imports=None)
    lines = [f'{key} = {value!r}' for key, value in classes(content).items()]
    return '\n'.join([*sorted(imports), *lines])


def test_pure_python_config_trains_to_the_weights_of_the_same_config_with_names(
    trained, digits, run, tmp_path
):
    text = pure_python(Config.fromfile(CONFIG))
    assert "'type': CBAM" in text and "'base_type': ResNet" in text
    (tmp_path / 'pure.py').write_text(text)
    options = ('--data-root', digits, '--work-dir', 'work', '--cfg-options', *QUICK)
    run('train.py', 'pure.py', *options, 'train_cfg.max_epochs=1', cwd=tmp_path)
    pure, named = (weights(folder / 'work/epoch_1.pth') for folder in (tmp_path, trained))
    assert list(pure) == list(named) and all(torch.equal(pure[key], named[key]) for key in named)
    run('test.py', 'pure.py', 'work/epoch_1.pth', *options, cwd=tmp_path)
    assert set(metrics(tmp_path / 'work')) >= COCO_NUMBERS | {'coco/zero_precision'}
    override = {'model.backbone.plugins.0.cfg.order': 'parallel'}
    checkpoint = torch.load(tmp_path / 'work/epoch_1.pth', weights_only=False)
    with pytest.raises(InputError, match="trained with order='channel-spatial'"):
        check_same_gates(
            ModelConfig.from_cfg(read_config(str(tmp_path / 'pure.py'), override)), checkpoint
        )


def test_relative_data_and_a_shipped_config_by_its_name_from_another_folder(digits, run, tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/digits').symlink_to(digits)
    options = ('--cfg-options', *QUICK, 'train_cfg.max_epochs=1')
    run('train.py', 'faster_rcnn_r50_digits', *options, cwd=tmp_path)
    assert (tmp_path / 'work_dirs/faster_rcnn_r50_digits/epoch_1.pth').is_file()


@pytest.mark.parametrize(
    'detector',
    [
        'faster_rcnn_r50',
        pytest.param('retinanet_r50', marks=pytest.mark.slow),
        pytest.param('ssd300_vgg16', marks=pytest.mark.slow),
    ],
)
def test_voc_layout_is_scored_by_both_metrics_with_its_own_class_names(
    detector, digits, run, tmp_path
):
    options = ('--work-dir', 'work', '--data-root', digits / 'VOCdevkit/VOC2007')
    stage = 'rcnn.' if detector == 'faster_rcnn_r50' else ''
    no_threshold = f'model.test_cfg.{stage}score_thr=0.0'  # scores are low after three steps
    options += ('--cfg-options', *QUICK, 'train_cfg.max_epochs=1', no_threshold)
    config = CONFIGS / f'{detector}_cbam_digits_voc.py'
    output = run('train.py', config, *options, cwd=tmp_path).stdout
    assert 'coco/bbox_mAP' in output and 'pascal_voc/mAP' in output
    assert re.search(r'\| zero +\|', output) and 'aeroplane' not in output


def test_two_processes_need_half_the_steps_and_test_each_image_once(digits, run, tmp_path):
    options = ('--work-dir', 'work', '--data-root', digits, '--cfg-options', *QUICK)
    environment = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PORT=str(free_port()))
    options += ('train_cfg.max_epochs=1', 'train_dataloader.batch_size=2')
    done = run('dist_train.sh', CONFIG, 2, *options, cwd=tmp_path, **environment)
    assert re.findall(r'Epoch\(train\) \[1\]\[(\d)/3\]', done.stdout + done.stderr) == [*'123']
    checkpoint = tmp_path / 'work/epoch_1.pth'
    data = ('--data-root', digits)
    outputs = {}
    for name, command in (
        ('single', ('test.py', CONFIG, checkpoint)),
        ('distributed', ('dist_test.sh', CONFIG, checkpoint, 2)),
    ):
        extra = ('--work-dir', name, '--out', f'{name}.pkl', *data, '--cfg-options', *QUICK)
        run(*command, *extra, cwd=tmp_path, **environment)
        outputs[name] = metrics(tmp_path / name)
    assert outputs['single'] == pytest.approx(outputs['distributed'], abs=2e-3, nan_ok=True)
    import pickle

    single, distributed = (
        pickle.loads((tmp_path / f'{name}.pkl').read_bytes()) for name in outputs
    )
    ids = [sample['img_id'] for sample in distributed]
    assert ids == [sample['img_id'] for sample in single]
    for expected, sample in zip(single, distributed, strict=True):
        for key, value in expected['pred_instances'].items():
            torch.testing.assert_close(sample['pred_instances'][key], value, msg=key)
    assert (
        len(ids) == len(set(ids)) == SMALL.val == 5
    )  # odd, so that the processes have different numbers


def test_pictures_of_data_detections_and_curves(trained, digits, run):
    data = ('--data-root', digits)
    run('visualize.py', 'data', CONFIG, *data, '--count', 5, '--out', 'data.svg', cwd=trained)
    assert (trained / 'data.svg').read_text().startswith('<?xml')
    run(
        *('visualize.py', 'detections', CONFIG, 'work/epoch_2.pth', *data, '--count', 2),
        *('--score', 0.01),
        cwd=trained,
    )
    run('visualize.py', 'curves', 'work', 'work', '--out', 'deep/curves.png', cwd=trained)
    for name in ('detections.png', 'deep/curves.png'):
        with Image.open(trained / name) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert('RGB').getcolors(10**7)) > 20


def test_make_digits_prints_what_it_did(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tool = in_process('make_digits')
    options = ('data', '--train', 2, '--val', 1, '--size', 64)
    assert tool(*options) == 0 and 'data: made' in capsys.readouterr().out
    assert tool(*options) == 0 and 'data: exists already' in capsys.readouterr().out
    remedy = 'give another folder (runs read it with --data-root), or remove this one\n'
    assert tool('data', '--train', 2, '--val', 1, '--size', 96, '--seed', 7) == 2
    refused = capsys.readouterr().err
    message = f'error: {tmp_path}/data has digits with size=64, seed=0'
    assert refused == f'{message}, not with size=96, seed=7; {remedy}'
    for content in ('[]', 'no JSON'):
        (tmp_path / 'data/digits.json').write_text(content)
        assert tool(*options) == 2
        refused = capsys.readouterr().err
        assert refused.endswith(f'data contains files other than the digits; {remedy}')


def test_config_of_five_lines_trains_on_a_voc_folder(run, tmp_path):
    """CBAM_DET_VOC_FOLDER gives a small real data set in VOC's layout."""
    folder = os.environ.get('CBAM_DET_VOC_FOLDER')
    if not folder:
        pytest.skip('set CBAM_DET_VOC_FOLDER to a folder in VOC layout to run this')
    folder = Path(folder).resolve()
    lists = folder / 'ImageSets/Main'
    names = sorted(
        {
            name
            for file in (folder / 'Annotations').glob('*.xml')
            for name in re.findall(r'<name>(.+?)</name>', file.read_text())
        }
    )
    (tmp_path / 'mine.py').write_text(
        f'_base_ = {str(CONFIGS / "faster_rcnn_r50_cbam_digits_voc.py")!r}\n'
        f'data = dict(data_root={str(folder)!r}, metainfo=dict(classes={tuple(names)!r}))\n'
        'train = dict(ann_file="ImageSets/Main/train.txt", filter_cfg=dict(bbox_min_size=1))\n'
        'train_dataloader = dict(dataset=dict(data, **train))\n'
        'val_dataloader = test_dataloader = dict(dataset=data)\n'
        f'model = dict(roi_head=dict(bbox_head=dict(num_classes={len(names)})))\n'
    )
    assert (lists / 'test.txt').is_file() and (lists / 'train.txt').is_file()
    run('train.py', 'mine.py', '--cfg-options', 'train_cfg.max_epochs=1', cwd=tmp_path)
    run('test.py', 'mine.py', 'work_dirs/mine/epoch_1.pth', cwd=tmp_path)
    scores = metrics(tmp_path / 'work_dirs/mine')
    assert set(scores) >= COCO_NUMBERS
    assert 0 <= scores['coco/bbox_mAP_50'] <= 1


@pytest.mark.slow
def test_installed_package_works_without_a_checkout(digits, tmp_path):
    """After `pip install .` into a folder, the console script trains a config by its name."""
    ignored = shutil.ignore_patterns('.*', 'data', 'work_dirs', 'build', '*.egg-info')
    source = shutil.copytree(ROOT, tmp_path / 'source', ignore=ignored)
    site = tmp_path / 'site'
    install = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation']
    subprocess.run([*install, '--target', str(site), str(source)], check=True)
    options = ['--data-root', str(digits), '--cfg-options', *QUICK, 'train_cfg.max_epochs=1']
    done = subprocess.run(
        [site / 'bin/cbam-det', 'train', 'faster_rcnn_r50_cbam_digits', *options],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'work_dirs/faster_rcnn_r50_cbam_digits/epoch_1.pth').is_file()
    assert (site / 'cbam_det/configs/_base_/attention/cbam.py').is_file()
    (tmp_path / 'results/experiments').mkdir(parents=True)
    for tool, *arguments in (('visualize', '--help'), ('experiment', 'table', 'table6')):
        done = subprocess.run(
            [sys.executable, '-m', 'cbam_det_tools', tool, *arguments],
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': str(site)},
            capture_output=True,
            text=True,
            check=True,
        )
    assert '| ResNet50 + CBAM | 0 |' in done.stdout
    assert (site / 'cbam_det_tools/dist_train.sh').is_file()
