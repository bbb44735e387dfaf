"""Exported files compute the outputs of the detector, and mmdet decodes them to its boxes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from cbam_det.apis.export import DensePart, detect, export, load_exported, read_metadata
from cbam_det.apis.inference import Predictor
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError

from ..conftest import in_process

# A block of ResNet-18 for each variant of the module.
VARIANTS = {
    'layer1.0.bn2': dict(order='channel-spatial'),
    'layer1.1.bn2': dict(order='spatial-channel'),
    'layer2.0.bn2': dict(order='parallel'),
    'layer2.1.bn2': dict(order='channel', pools='avg'),
    'layer3.0.bn2': dict(order='spatial'),
    'layer3.1.bn2': dict(pools=('max', 'lp'), spatial_pools='conv'),
    'layer4.0.bn2': dict(pools='lse', start='identity'),
    'layer4.1.bn2': dict(pools=('avg', 'max'), spatial_pools=('avg', 'max'), kernel_size=3),
}


def predictor(config: str, **model: object) -> Predictor:
    """A detector with random weights, also in the gates."""
    cfg = read_config(config)
    cfg.merge_from_dict(dict(model=model))
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    detector = Predictor(cfg)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in detector.model.named_parameters():
            if '_gate.' in name or 'cls' in name:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return detector


@pytest.fixture(scope='module')
def retinanet() -> Predictor:
    plugins = [dict(cfg=dict(type='CBAM', **cfg), after=place) for place, cfg in VARIANTS.items()]
    backbone = dict(depth=18, plugins=plugins)
    neck = dict(in_channels=[16, 32, 64, 128])
    return predictor('retinanet_r50_cbam_digits_voc', backbone=backbone, neck=neck)


@pytest.mark.parametrize('channels', [1, 4])
def test_detector_for_images_with_other_channels_than_rgb_is_exported(channels, tmp_path):
    neck = dict(in_channels=[16, 32, 64, 128])
    backbone = dict(depth=18, in_channels=channels)
    export(
        predictor('retinanet_r50_cbam_digits_voc', backbone=backbone, neck=neck),
        tmp_path / 'a.pt',
        (64, 64),
    )
    images = torch.randn(2, channels, 96, 64)
    assert len(load_exported(tmp_path / 'a.pt')(images)) == 10


@pytest.mark.parametrize('ending', ['onnx', 'pt'])
def test_every_variant_is_exported_for_any_number_and_size_of_images(
    retinanet, ending, tmp_path, digits
):
    path = tmp_path / f'net.{ending}'
    gaps = export(retinanet, path, (96, 96))
    assert list(gaps) == [f'{kind}_{n}' for kind in ('cls_scores', 'bbox_preds') for n in range(5)]
    assert max(gaps.values()) < 1e-4
    run = load_exported(path)
    for shape in ((3, 3, 64, 128), (1, 3, 160, 96)):
        images = torch.randn(shape)
        with torch.no_grad():
            expected = DensePart(retinanet.model)(images)
        for pair in zip(run(images).values(), expected, strict=True):
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)
    metadata = read_metadata(path)
    assert metadata['mean'] == [123.675, 116.28, 103.53] and metadata['bgr_to_rgb'] is True
    assert metadata['classes'] == list(retinanet.classes) and metadata['outputs'] == list(gaps)
    assert [step['type'] for step in metadata['pipeline']][1] == 'Resize'
    # The boxes of a real image.
    image = next((digits / 'val2017').glob('*.jpg'))
    prepared = retinanet.prepare(image)
    boxes = detect(retinanet, prepared, run(prepared.data['inputs']))
    predictions = retinanet.predict(prepared)
    assert len(boxes) == len(predictions) > 0
    for box, prediction in zip(boxes, predictions, strict=True):
        torch.testing.assert_close(box.scores[0], prediction.score, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(box.bboxes[0], prediction.box, rtol=1e-3, atol=1e-2)
        assert box.labels[0] == prediction.label
    with pytest.raises(InputError, match='exists; remove it'):
        export(retinanet, path, (96, 96))


def test_two_stage_detector_exports_the_neck_s_outputs_and_the_rpn(tmp_path):
    detector = predictor('faster_rcnn_r18_cbam_digits')
    gaps = export(detector, tmp_path / 'net.onnx', (96, 96))
    kinds = ('features', 'cls_scores', 'bbox_preds')
    assert list(gaps) == [f'{kind}_{level}' for kind in kinds for level in range(5)]
    with pytest.raises(InputError, match='has two stages'):
        detect(detector, None, {})


@pytest.mark.slow
@pytest.mark.parametrize('config', ['ssd300_vgg16_cbam', 'fcos_r50_cbam', 'rtmdet_tiny_cbam'])
@pytest.mark.parametrize('ending', ['onnx', 'pt'])
def test_other_detectors_are_exported(config, ending, tmp_path):
    size = (300, 300) if 'ssd' in config else (128, 128)
    path = tmp_path / f'net.{ending}'
    gaps = export(predictor(config), path, size)
    assert ('score_factors_0' in gaps) == ('fcos' in config)
    images = torch.randn(2, 3, *size)
    assert list(load_exported(path)(images)) == list(gaps)


def test_a_file_with_other_outputs_is_not_written(retinanet, tmp_path, monkeypatch):
    monkeypatch.setattr('cbam_det.apis.export.TOLERANCE', -1.0)
    with pytest.raises(InputError, match='outputs of the exported file differ from the model'):
        export(retinanet, tmp_path / 'net.pt', (64, 64))
    assert not list(tmp_path.iterdir())


def test_mistakes_are_reported(retinanet, tmp_path, monkeypatch):
    with pytest.raises(InputError, match='has an unknown ending'):
        export(retinanet, tmp_path / 'net.xml', (64, 64))
    monkeypatch.setattr(retinanet.model.bbox_head, 'forward', lambda features: 1 / 0)
    with pytest.raises(InputError, match='RetinaHead cannot be exported at 64x96 pixels'):
        export(retinanet, tmp_path / 'net.pt', (64, 96))
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(InputError, match='pip install onnx onnxruntime'):
        export(retinanet, tmp_path / 'net.onnx', (64, 64))


def test_tool_exports_a_checkpoint(trained, tmp_path, capsys):
    work = trained / 'work'
    out = tmp_path / 'net.pt'
    tool = in_process('export')
    status = tool(
        *('faster_rcnn_r50_cbam_digits', work / 'epoch_2.pth', '--out', out, '--size', 96, 96)
    )
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert '15 outputs, which differ from the model by at most' in printed.out
    assert read_metadata(out)['pad_size_divisor'] == 32


def test_full_disk_is_not_blamed_on_the_detector(retinanet, tmp_path, monkeypatch):
    def write_bytes(path: Path, content: bytes) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', write_bytes)
    with pytest.raises(OSError, match='No space left'):
        export(retinanet, tmp_path / 'a.pt', (64, 64))
