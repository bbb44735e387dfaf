"""The command that draws: the pictures it writes, and mistakes in its arguments."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

from cbam_det.models.layers import CBAM
from cbam_det.visualization import figures

from ..conftest import CONFIGS
from .untrained import DIGITS, predictor

pytestmark = pytest.mark.usefixtures('one_thread')


def test_commands_write_their_pictures(tool, photo, digits, tmp_path, capsys):
    made = predictor()
    for one in made.model.modules():
        if isinstance(one, CBAM):
            nn.init.normal_(one.spatial_gate.norm.weight)
    checkpoint = tmp_path / 'one.pth'
    torch.save(dict(state_dict=made.model.state_dict()), checkpoint)
    baseline = predictor(str(CONFIGS / 'faster_rcnn_r50_digits.py'))
    other = tmp_path / 'other.pth'
    torch.save(dict(state_dict=baseline.model.state_dict()), other)
    against = ('--against', 'faster_rcnn_r50_digits', other)
    before = figures.plt.get_fignums()
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
    assert figures.plt.get_fignums() == before  # every figure is closed
    image = Image.open(tmp_path / 'gradcam.png')
    assert image.width > 700  # the picture and both models


@pytest.mark.parametrize(
    ('args', 'said'),
    [
        (('attention', 'no.jpg', DIGITS), 'no image no.jpg'),
        (('attention', __file__, DIGITS), 'cannot be read as an image'),
        (('attention', 'PHOTO', 'faster_rcnn_r50_digits'), 'has no CBAM to look at'),
        (('attention', 'PHOTO', DIGITS, '--layer', 'layer9'), '--layer layer9 is no CBAM'),
        (('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--score', 1.1), 'lower --score'),
        (
            ('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--score', 0, '--layer', 'backbone.layer5'),
            'is no layer of this model; near: backbone.layer',
        ),
        (
            ('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--score', 0, '--layer', 'neck'),
            'makes no feature map, or several',
        ),
        (
            ('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--class', 'fuor'),
            "knows no class 'fuor'; near: four",
        ),
        (('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--count', 0, '--score', 0), '--count 0'),
        (
            ('gradcam', 'PHOTO', DIGITS, 'none.pth'),
            'the checkpoint none.pth (checkpoint) does not exist',
        ),
        (('focus', DIGITS, 'CHECKPOINT', '--out', 'a.png'), 'this command writes .json'),
        (('report', 'nowhere', '--out', 'a.png'), 'this command writes .html'),
        (('report', 'nowhere'), 'nowhere holds no log of a training'),
        (('attention', 'PHOTO', DIGITS, '--out', 'a.txt'), 'end it in .png'),
    ],
)
def test_mistakes_end_in_one_line_with_the_remedy(args, said, tool, photo, tmp_path, capsys):
    checkpoint = tmp_path / 'one.pth'
    if 'CHECKPOINT' in args:
        torch.save(dict(state_dict=predictor().model.state_dict()), checkpoint)
    names = {'PHOTO': photo, 'CHECKPOINT': checkpoint}
    capsys.readouterr()
    assert tool(*(names.get(one, one) for one in args)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and said in errors[0]
