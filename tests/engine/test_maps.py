"""AttentionMapsHook: pages at each validation of a real training."""

from __future__ import annotations

import pytest
from mmengine.hooks import EMAHook
from mmengine.runner import get_priority
from PIL import Image

from cbam_det.engine.hooks import AttentionMapsHook

from ..conftest import CONFIGS, QUICK

HOOK = 'default_hooks.attention_maps'


@pytest.mark.slow
def test_pages_are_written_at_each_validation_and_change_no_weight(trained, digits, run, tmp_path):
    options = ('--data-root', digits, '--cfg-options', *QUICK, 'train_cfg.max_epochs=2')
    config = CONFIGS / 'faster_rcnn_r50_cbam_digits.py'
    run(
        *('train.py', config, '--work-dir', 'work', *options),
        *(f'{HOOK}.type=AttentionMapsHook', f'{HOOK}.count=2'),
        cwd=tmp_path,
    )
    pages = sorted(path.name for path in tmp_path.glob('work/*/vis_data/vis_image/*.png'))
    assert pages == [f'attention_{n}_{step}.png' for n in (0, 1) for step in (3, 6)]
    with Image.open(next(tmp_path.glob('work/*/vis_data/vis_image/attention_1_6.png'))) as page:
        assert page.width > 1000 and len(page.convert('RGB').getcolors(10**7)) > 100
    logs = [next(folder.glob('work/*/vis_data/scalars.json')) for folder in (trained, tmp_path)]
    losses = [
        [
            line.split('"loss": ')[1].split(',')[0]
            for line in log.read_text().split('\n')
            if '"loss"' in line
        ]
        for log in logs
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_a_model_without_cbam_is_refused_before_the_training(digits, run, tmp_path):
    done = run(
        *('train.py', CONFIGS / 'faster_rcnn_r50_digits.py', '--data-root', digits),
        *('--cfg-options', *QUICK, "custom_imports.imports=['cbam_det']"),
        f'{HOOK}.type=AttentionMapsHook',
        cwd=tmp_path,
        status=2,
    )
    assert 'has no CBAM to show' in done.stderr


def test_pages_show_the_averaged_weights_that_were_validated():
    assert get_priority(AttentionMapsHook.priority) < get_priority(EMAHook.priority)


@pytest.mark.parametrize('options', [dict(count=0), dict(interval=0), dict(count='two')])
def test_unfit_options_are_named(options):
    with pytest.raises(ValueError, match=f'{next(iter(options))}=.* must be'):
        AttentionMapsHook(**options)
