"""`tools/visualize.py`: the pictures that it writes, and mistakes in its arguments."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

from cbam_det.models.layers import CBAM
from cbam_det.visualization import figures

from ..conftest import CONFIGS, in_process
from .untrained import DIGITS, predictor

pytestmark = pytest.mark.usefixtures('one_thread')


def test_commands_write_their_pictures(tool, photo, digits, tmp_path, capsys):
    detector = predictor()
    for module in detector.model.modules():
        if isinstance(module, CBAM):
            nn.init.normal_(module.spatial_gate.norm.weight)
    checkpoint = tmp_path / 'cbam.pth'
    torch.save(dict(state_dict=detector.model.state_dict()), checkpoint)
    baseline = predictor(str(CONFIGS / 'faster_rcnn_r50_digits.py'))
    baseline_checkpoint = tmp_path / 'baseline.pth'
    torch.save(dict(state_dict=baseline.model.state_dict()), baseline_checkpoint)
    against = ('--against', 'faster_rcnn_r50_digits', baseline_checkpoint)
    open_figures = figures.plt.get_fignums()
    options = {
        'attention': (photo, DIGITS, checkpoint, '--layer', 'backbone.inserted.layer2/0/bn3.cbam'),
        'gradcam': (photo, DIGITS, checkpoint, *against, '--score', 0, '--count', 2),
        'pr': (DIGITS, checkpoint, *against, '--data-root', digits),
    }
    for command, args in options.items():
        out = tmp_path / f'{command}.png'
        assert tool(command, *args, '--out', out) == 0, capsys.readouterr().err
        with Image.open(out) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert('RGB').getcolors(10**7)) > 20
    assert figures.plt.get_fignums() == open_figures  # every new figure is closed
    image = Image.open(tmp_path / 'gradcam.png')
    assert image.width > 700  # the picture and both models


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('attention', 'no.jpg', DIGITS), 'there is no image no.jpg'),
        (('attention', __file__, DIGITS), 'cannot be read as an image'),
        (('attention', 'PHOTO', 'faster_rcnn_r50_digits'), 'has no CBAM to show'),
        (('attention', 'PHOTO', DIGITS, '--layer', 'layer9'), '--layer layer9 matches no CBAM'),
        (('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--score', 1), 'lower --score'),
        (
            ('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--score', 0, '--layer', 'backbone.layer5'),
            "is not in this model; did you mean 'backbone.layer",
        ),
        (
            ('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--score', 0, '--layer', 'neck'),
            'does not output exactly one feature map',
        ),
        (
            ('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--class', 'fuor'),
            "has no class 'fuor'; did you mean 'four'",
        ),
        (
            ('gradcam', 'PHOTO', DIGITS, 'none.pth'),
            'the checkpoint none.pth does not exist',
        ),
        (('focus', DIGITS, 'CHECKPOINT', '--out', 'a.png'), 'this command writes .json'),
        (('report', 'nowhere', '--out', 'a.png'), 'this command writes .html'),
        (('report', 'nowhere'), 'nowhere has no training log'),
        (('attention', 'PHOTO', DIGITS, '--out', 'a.txt'), '.png, .svg or .jpg'),
    ],
)
def test_mistakes_are_reported_in_one_line_with_a_remedy(
    args, message, tool, photo, tmp_path, capsys
):
    checkpoint = tmp_path / 'model.pth'
    if 'CHECKPOINT' in args:
        torch.save(dict(state_dict=predictor().model.state_dict()), checkpoint)
    paths = {'PHOTO': photo, 'CHECKPOINT': checkpoint}
    capsys.readouterr()
    assert tool(*(paths.get(word, word) for word in args)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize('command', ['pr', 'focus', 'report'])
@pytest.mark.parametrize('place', ['folder', 'file/deep'])
def test_output_that_cannot_be_written_is_reported_before_the_work(
    command, place, tool, tmp_path, monkeypatch, capsys
):
    ending = dict(pr='.png', focus='.json', report='.html')[command]
    (tmp_path / f'folder{ending}').mkdir()
    (tmp_path / 'file').touch()
    (tmp_path / 'a.pth').touch()
    args = [tmp_path] if command == 'report' else [DIGITS, tmp_path / 'a.pth']
    out = tmp_path / f'{place}{ending}'
    assert tool(command, *args, '--out', out) == 2
    assert f'error: --out {out} cannot be written (' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['visualize', 'predict'])
@pytest.mark.parametrize('score', ['30', 'nan', '-0.1'])
def test_score_is_from_0_to_1(score, name, capsys):
    args = ['detections'] if name == 'visualize' else ['image.jpg']
    with pytest.raises(SystemExit):
        in_process(name)(*args, DIGITS, 'a.pth', f'--score={score}')
    assert f'{score} is not a score; give a number from 0 to 1' in capsys.readouterr().err


def test_data_set_without_its_files_is_one_line(tool, tmp_path, monkeypatch, capsys):
    pytest.importorskip('mmpretrain')
    monkeypatch.chdir(tmp_path)
    assert tool('data', 'tiny_imagenet/resnet18_half') == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: train_dataloader.dataset')
    assert 'No such file or directory' in error and 'meta/train.txt' in error
