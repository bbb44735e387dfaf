"""Tiny-ImageNet's lists, and training a classifier and then a detector from its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from cbam_det.datasets import tiny_imagenet
from cbam_det.datasets.tiny_imagenet import write_lists
from cbam_det.models.build import build_model
from cbam_det.utils.errors import InputError
from cbam_det.visualization.report import write

from ..conftest import CONFIGS, in_process
from .test_voc import write_devkit

WNIDS = ('n02', 'n01', 'n10')  # the archive's order is not that of the ids


def make_archive(root: Path) -> Path:
    """The archive's folders with 3 classes of 4 training and 2 validation images each."""
    random = np.random.default_rng(0)

    def image(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(path, 'JPEG')

    lines = []
    for number, wnid in enumerate(WNIDS):
        for k in range(4):
            image(root / f'train/{wnid}/images/{wnid}_{k}.JPEG')
        for k in range(2):
            image(root / f'val/images/val_{2 * number + k}.JPEG')
            lines.append(f'val_{2 * number + k}.JPEG\t{wnid}\t0\t1\t62\t63')
    (root / 'wnids.txt').write_text('\n'.join(WNIDS))
    (root / 'val/val_annotations.txt').write_text('\n'.join(lines) + '\n')
    return root


EXTRA = 'train/n01/images/copy.JPEG'


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def change(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.fixture
def archive(monkeypatch, tmp_path) -> Path:
    for name, value in (('CLASSES', 3), ('TRAIN', 4), ('VAL', 2)):
        monkeypatch.setattr(tiny_imagenet, name, value)
    return make_archive(tmp_path / 'data/tiny-imagenet-200')


def test_lists_name_every_image_with_its_class_in_the_order_of_the_ids(archive, capsys):
    assert in_process('prepare_tiny_imagenet')(archive) == 0
    message = 'meta/train.txt with 12 images, meta/val.txt with 6 images'
    assert message in capsys.readouterr().out
    train = [line.split() for line in (archive / 'meta/train.txt').read_text().splitlines()]
    assert [label for _, label in train] == [*'000011112222']
    assert {path.split('/')[1]: label for path, label in train} == dict(n01='0', n02='1', n10='2')
    val = (archive / 'meta/val.txt').read_text().splitlines()
    assert val[:3] == [
        'val/images/val_0.JPEG 1',
        'val/images/val_1.JPEG 1',
        'val/images/val_2.JPEG 0',
    ]
    assert all((archive / path).is_file() for path, _ in train)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda root: (root / 'wnids.txt').unlink(), 'no file .*wnids.txt; unpack'),
        (lambda root: (root / 'wnids.txt').write_text('n01 n02'), 'lists 2 classes, not 3'),
        (lambda root: append(root / 'wnids.txt', '\nn02'), 'wnids.txt lists n02 more than once'),
        (
            lambda root: (root / 'wnids.txt').write_bytes(b'\xff'),
            'wnids.txt is not a text in UTF-8',
        ),
        (
            lambda root: shutil.rmtree(root / 'train/n10'),
            'classes in .*train do not have 4.* n10 has 0',
        ),
        (lambda root: (root / 'train/n01/images/n01_2.JPEG').unlink(), 'n01 has 3; unpack'),
        (lambda root: (root / 'val/images/val_3.JPEG').unlink(), r'val_3.JPEG \(missing\)'),
        (lambda root: (root / 'val/images/val_3.JPEG').write_bytes(b'x'), 'val_3.JPEG .unreadable'),
        (lambda root: (root / 'val/val_annotations.txt').unlink(), 'no file .*val_annotations.txt'),
        (
            lambda root: (root / 'val/val_annotations.txt').write_bytes(b'\xff\n'),
            'val_annotations.txt is not a text in UTF-8',
        ),
        (
            lambda root: change(root / 'val/val_annotations.txt', 'val_1.JPEG', 'val_0.JPEG'),
            'val_annotations.txt lists val/images/val_0.JPEG more than once; unpack',
        ),
        (
            lambda root: append(root / 'val/val_annotations.txt', 'val_0.JPEG\tn10\n'),
            'val_annotations.txt lists val/images/val_0.JPEG more than once; unpack',
        ),
        (
            lambda root: shutil.copy(root / 'train/n01/images/n01_0.JPEG', root / EXTRA),
            f'has 13 training images, not 12; remove those .* does not have: {EXTRA}$',
        ),
        (
            lambda root: (root / 'val/val_annotations.txt').write_text('a.JPEG\tn9\n'),
            "line 1: class 'n9'",
        ),
        (lambda root: (root / 'val/val_annotations.txt').write_text('\n'), "line 1: class ''"),
    ],
)
def test_wrong_archive_is_an_error_and_no_list_is_written(damage, message, archive):
    damage(archive)
    with pytest.raises(InputError, match=message):
        write_lists(archive)
    assert not (archive / 'meta').exists()


def test_a_list_that_cannot_be_written_is_refused_before_images_are_decoded(archive, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tiny_imagenet, 'decode_all', None)
        (archive / 'meta').write_text('')
        message = (
            r'meta/train.txt cannot be written \(.*meta: Not a directory\); make this a folder'
        )
        with pytest.raises(InputError, match=message):
            write_lists(archive)
        (archive / 'meta').unlink()
        for other in ('mine', 'train/n01/images/n01_0.JPEG 0\n'):
            (archive / 'meta').mkdir(exist_ok=True)
            (archive / 'meta/train.txt').write_text(other)
            with pytest.raises(InputError, match=r'meta/train\.txt exists, .*; move or remove it$'):
                write_lists(archive)
            assert (archive / 'meta/train.txt').read_text() == other
    (archive / 'meta/train.txt').unlink()
    assert write_lists(archive) == write_lists(archive) == dict(train=12, val=6)


TINY = (
    *('train_dataloader.batch_size=4', 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2'),
    *('param_scheduler.0.end=2', 'default_hooks.logger.interval=1', 'randomness.seed=3'),
)


@pytest.fixture
def trained_classifier(archive, run, tmp_path) -> Path:
    """The working folder after training the CBAM classifier on the command line."""
    write_lists(archive)
    config = CONFIGS / 'tiny_imagenet/resnet18_half_cbam.py'
    run('train.py', config, '--work-dir', 'classifier', '--cfg-options', *TINY, cwd=tmp_path)
    return tmp_path


def test_classifier_is_trained_by_our_tool_and_tested_with_top_1(trained_classifier, run):
    folder = trained_classifier
    config = CONFIGS / 'tiny_imagenet/resnet18_half_cbam.py'
    log = next((folder / 'classifier').glob('*/*.log')).read_text()
    assert 'backbone.inserted.layer4/1/bn2.cbam' in log and 'start=paper' in log
    run('test.py', config, 'classifier/epoch_2.pth', '--work-dir', 'classifier', cwd=folder)
    record = json.loads(next((folder / 'classifier').glob('*/metrics.json')).read_text())
    assert 0 <= record['metrics']['accuracy/top1'] <= record['metrics']['accuracy/top5'] <= 100


def test_report_of_a_classifier_has_attention_and_costs_but_no_detections(archive, tmp_path):
    write_lists(archive)
    cfg = Config.fromfile(CONFIGS / 'tiny_imagenet/resnet18_half_cbam.py')
    log = tmp_path / 'work/1/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 5.3, "lr": 0.05, "iter": 1, "step": 1}\n')
    cfg.dump(tmp_path / 'work/classifier.py')
    torch.save(dict(state_dict=build_model(cfg).state_dict()), tmp_path / 'work/epoch_1.pth')
    (tmp_path / 'work/last_checkpoint').write_text('epoch_1.pth')
    page = write(tmp_path / 'work', tmp_path / 'report.html', data_root=str(archive))
    text = page.read_text(encoding='utf-8')
    assert 'are for a classifier and have no boxes' in text
    assert text.count('src="data:image/png;base64,') == 2  # attention and Grad-CAM
    assert '<td>64x64</td>' in text


def test_classifier_built_outside_a_run_normalizes_as_in_a_run():
    """mmpretrain's configs have the preprocessor next to the model; the runner adds it."""
    cfg = Config.fromfile(CONFIGS / 'tiny_imagenet/resnet18_half_cbam.py')
    made = build_model(cfg).data_preprocessor
    assert made.mean.flatten().tolist() == pytest.approx(cfg.data_preprocessor.mean)
    assert made.to_rgb and 'data_preprocessor' not in cfg.model


@pytest.mark.slow
def test_chain_of_classifier_and_detector_is_run_recorded_and_bit_equal_when_run_again(
    archive, tmp_path, monkeypatch, capsys
):
    """Rows of the study voc07, shortened, on images of noise."""
    write_lists(archive)
    box = (11, 11, 90, 90)
    write_devkit(tmp_path / 'data/VOCdevkit', [[('cat', box, 0)], [('dog', box, 0)]] * 4)
    random = np.random.default_rng(0)
    for path in (tmp_path / 'data/VOCdevkit/VOC2007/JPEGImages').iterdir():
        Image.fromarray(random.integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(path)
    lists = tmp_path / 'data/VOCdevkit/VOC2007/ImageSets/Main'
    names = (lists / 'test.txt').read_text().split()
    for split, part in (('trainval', names[:4]), ('test', names[4:])):
        (lists / f'{split}.txt').write_text('\n'.join(part))
    studies = tmp_path / 'studies'
    studies.mkdir()
    short = {'randomness.deterministic': False, 'default_hooks.logger.interval': 1}
    short |= {'train_cfg.max_epochs': 1, 'train_dataloader.batch_size': 4}
    (studies / 'tiny.yaml').write_text(
        json.dumps(
            dict(
                title='tiny',
                metrics={'AP50': 'pascal_voc/mAP', 'AP': 'coco/bbox_mAP'},
                seeds=[0],
                options={'optim_wrapper.type': 'AmpOptimWrapper', **short},
                rows=dict(
                    classifier=dict(
                        config='tiny_imagenet/resnet18_half_cbam',
                        metrics={'Top-1': 'accuracy/top1'},
                        scale=1,
                    ),
                    detector=dict(
                        config='faster_rcnn_r18_half_cbam_voc07',
                        weights={'model.backbone.init_cfg.checkpoint': 'classifier'},
                        overrides={'model.test_cfg.rcnn.score_thr': 0.0},
                    ),
                ),
            )
        )
    )
    monkeypatch.chdir(tmp_path)
    tool = in_process('experiment')
    common = ('--studies', 'studies', '--results', 'results')
    assert tool(*common, 'run', 'tiny', '--work-dirs', 'work') == 0, capsys.readouterr().err
    first, second = map(json.loads, Path('results/tiny.jsonl').read_text().splitlines())
    assert second['starts_from'] == {'classifier': first['weights']}
    assert second['weights'] != first['weights'] and 'pascal_voc_area/mAP' in second['metrics']
    for row in ('classifier', 'detector'):
        words = ('repeat', 'tiny', '--row', row, '--seed', 0, '--work-dirs', 'work')
        assert tool(*common, *words) == 0, capsys.readouterr().err
        assert 'all numbers are the same' in capsys.readouterr().out
    assert tool(*common, 'table', 'tiny') == 0
    assert '| Top-1 of the initial weights |' in capsys.readouterr().out
