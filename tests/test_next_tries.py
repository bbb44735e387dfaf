"""The remedies of messages are found in them, and one that does not work fails the test."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from mmengine.config import Config

from cbam_det.engine import config_names, devices
from cbam_det.utils.config import override
from cbam_det.utils.errors import InputError
from cbam_det.utils.options import parse_options
from cbam_det.utils.run_config import RunConfig

from . import next_tries
from .conftest import CONFIG, ROOT
from .next_tries import FunctionCall, Refusal, try_again
from .remedies import remedies

MESSAGES = {
    "x is wrong; give type='BN': --cfg-options a.0.type=BN 'b=My Drive'": [
        dict(options={'a.0.type': 'BN', 'b': 'My Drive'})
    ],
    "a dtype needs a GPU; give optim_wrapper.dtype='bfloat16', or leave --amp out": [
        dict(options={'optim_wrapper.dtype': 'bfloat16'}),
        dict(without='--amp'),
    ],
    "2 classes; set model.bbox_head.num_classes=3 or the data set's metainfo.classes": [
        dict(options={'model.bbox_head.num_classes': 3})
    ],
    "a set; in order, train_dataloader.dataset.metainfo.classes=('a', 'b c')": [
        dict(options={'train_dataloader.dataset.metainfo.classes': ('a', 'b c')})
    ],
    "gone; restore it (python tools/check_data.py '/a b/c.py' --fix joins them), or not": [
        dict(command="python tools/check_data.py '/a b/c.py' --fix")
    ],
    'x; link them: for f in \'/a b\'/*; do ln -s "$f" x; done': [
        dict(command='for f in \'/a b\'/*; do ln -s "$f" x; done')
    ],
    'no data; it is there as /a b: give --data-root /a/b, or not': [
        dict(arguments=('--data-root', '/a/b'))
    ],
    'of an earlier run; give another --work-dir, continue it with --resume, or move them away': [
        dict(arguments=('--resume',))
    ],
    'unsafe; where you trust it, put X_Y=0 before the command': [dict(environment=('X_Y', '0'))],
    'X_Y=1 is set; take it out: unset X_Y': [dict(environment=('X_Y', None))],
    'no av: pip install av': [dict(command='pip install av')],
    'x; give the --work-dirs of the runs, or --data-root': [],
    'x; name one by --resume PATH, or python tools/check_data.py CONFIG --fix': [],
    'x.y=1 cannot be used: z; --cfg-options log_level=DEBUG shows the traceback': [],
}


@pytest.mark.parametrize(('message', 'expected'), MESSAGES.items())
def test_remedies_that_can_be_pasted_are_found_in_a_message(message, expected):
    found = [remedy._asdict() for remedy in remedies(message)]
    assert [
        {key: one[key] for key in one if key != 'text' and one[key]} for one in found
    ] == expected


def check(cfg: Config) -> None:
    if cfg.model.get('neck').get('depth') != 3:
        raise InputError('model.neck.depth is wrong; give it: --cfg-options model.neck.depth=3')


@pytest.mark.parametrize(
    ('pair', 'words'),
    [
        ('model.neck.depth=2', 'changes nothing'),
        ('model.neck=2', 'ends in AttributeError'),
        ('modl.neck.depth=3', 'the option modl would have no effect'),
    ],
)
def test_remedy_that_does_not_work_fails_the_test_that_provokes_it(pair, words, tmp_path):
    cfg = Config(dict(model=dict(neck=dict(depth=1))))
    call = FunctionCall(check, dict(cfg=cfg), dict(cfg=cfg))
    message = 'model.neck.depth is wrong; give it: --cfg-options model.neck.depth=3'
    (remedy,) = remedies(message)
    refusal = Refusal(message, str(tmp_path), call)
    try_again(refusal, remedy)
    (wrong,) = remedies(f'x; --cfg-options {pair}')
    with pytest.raises(AssertionError, match=words):
        try_again(refusal, wrong)


def test_options_in_the_texts_of_messages_fit_a_shipped_config():
    files = [*(ROOT / 'cbam_det').rglob('*.py'), *(ROOT / 'tools').glob('*.py')]
    text = '\n'.join(file.read_text() for file in files)
    pairs = re.findall(r"--cfg-options(?: '\n *')? ?([a-z][\w.]+=\w+)", text)
    assert len(pairs) > 4
    cfg = Config.fromfile(CONFIG)
    for pair in pairs:
        config_names.check_names(override(copy.deepcopy(cfg), parse_options([pair])))


def test_call_that_a_test_has_made_is_made_again_with_its_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    norm = dict(norm_cfg=dict(type='SyncBN'))
    cfg = Config(dict(model=dict(backbone=norm), launcher='pytorch', sync_bn='torch'))
    with pytest.raises(InputError):
        devices.check_sync_bn(RunConfig.from_cfg(cfg))
    cfg.model = {}
    with pytest.raises(InputError):
        devices.check_sync_bn(RunConfig.from_cfg(cfg), training=True)
    with pytest.raises(InputError):
        devices.check_sync_bn(RunConfig.from_cfg(Config(dict(sync_bn='mm', model={}))))
    assert [(kind, text) for kind, text in next_tries.outcomes()] == [
        ('without a remedy', "sync_bn='mm' is unknown; give 'torch', 'mmcv' or None"),
        ('remedy done', '--cfg-options model.backbone.norm_cfg.type=BN'),
        ('remedy done', 'sync_bn=None'),
    ]
