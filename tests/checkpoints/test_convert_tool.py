"""The tool that converts a checkpoint: its output, its files, its errors, and how it reads."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

from cbam_det.checkpoints.convert import convert, detect_format
from cbam_det.checkpoints.files import WEIGHTS_ONLY, read_file
from cbam_det.utils.errors import InputError

from ..conftest import in_process
from .other_implementations import NEEDED, Authors, build, equal, randomised
from .starts import to_paper


@pytest.fixture
def tool(capsys) -> Callable[..., tuple[int, str]]:
    """Run the tool in this process; returns its exit status and output."""
    convert = in_process('convert_checkpoint')

    def call(*args: object) -> tuple[int, str]:
        status = convert(*args)
        return status, ''.join(capsys.readouterr())

    return call


def test_tool_converts_a_file_and_reports_every_key(tool, tmp_path, theirs):
    source, target = tmp_path / 'theirs.pth', tmp_path / 'ours.pth'
    torch.save({'state_dict': theirs('timm').state_dict(), 'epoch': 3, 'arch': 'r18'}, source)
    status, output = tool(source, target, '--drop-classifier', '--verbose')
    assert status == 0, output
    assert 'left out, so no training can resume from OUT: epoch, arch' in output
    assert (
        '8 CBAM, layer1.0.bn2 to layer4.1.bn2: '
        "dict(type='CBAM', norm_cfg=dict(type='BN'), start='paper', mlp_bias=False)"
    ) in output
    for row in ('dropped │ 2', 'flipped │ 8', 'reshaped │ 16', 'layer1.0.se.channel.fc1.weight'):
        assert row.replace(' ', '') in output.replace(' ', '')
    state, meta, rest = read_file(target)
    ours = convert(theirs('timm').state_dict(), drop_classifier=True).state
    assert equal(state, ours) and (meta, rest) == ({}, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ['ours.pth', 'theirs.pth']
    net = build(18, NEEDED['timm'], init_cfg=dict(type='Pretrained', checkpoint=str(target)))
    net.init_weights()
    assert equal(net.state_dict(), state)


def test_tool_converts_a_detector_s_start_by_the_options_of_its_config(tool, tmp_path):
    cfg = dict(start='identity', order='parallel')
    state = randomised(build(50, cfg, 'plugins', base_channels=16)).state_dict()
    state = {f'backbone.{key}': value for key, value in state.items()}
    log = HistoryBuffer([1.0], [1])
    meta = dict(epoch=3, cfg='model = {}', dataset_meta=dict(classes=('a', 'b')), log=log)
    file, config = tmp_path / 'epoch_3.pth', tmp_path / 'config.py'
    rest = dict(message_hub=dict(log_scalars={'loss': log}), optimizer={}, ema_state_dict={})
    torch.save(dict(meta=meta, state_dict=state, **rest), file)
    plugins = [dict(cfg=dict(type='CBAM', **cfg), after='layer*.*.bn3')]
    config.write_text(f'model = dict(backbone=dict(plugins={plugins!r}))')
    status, output = tool(file, tmp_path / 'paper.pth', '--start', 'paper')
    assert status == 2 and 'give --config, or --order' in output
    assert not (tmp_path / 'paper.pth').exists()
    status, output = tool(file, tmp_path / 'paper.pth', '--start', 'paper', '--config', config)
    assert status == 0, output
    assert 'message_hub, optimizer, ema_state_dict' in output
    assert '16 CBAM, backbone.layer1.0.bn3 to backbone.layer4.2.bn3' in output
    paper, plain_meta, _ = read_file(tmp_path / 'paper.pth')
    assert equal(paper, to_paper(state, cfg).state)
    assert plain_meta == {key: meta[key] for key in ('epoch', 'dataset_meta')}
    assert "left out, because OUT does not fit it: IN's config" in output
    config.write_text('model = dict(backbone=dict())')
    status, output = tool(file, tmp_path / 'b.pth', '--start', 'paper', '--config', config)
    assert status == 2 and 'the model has no CBAM' in output


def test_tool_overwrites_nothing_and_reports_errors_in_one_line(tool, tmp_path):
    state, broken = tmp_path / 'a.pth', tmp_path / 'broken.pth'
    torch.save(Authors(16).state_dict(), state, _use_new_zipfile_serialization=False)
    broken.write_bytes(b'not a checkpoint')
    torch.save({'optimizer': {}}, tmp_path / 'none.pth')
    for args, message in (
        ((state, state), 'a.pth exists; remove it or give another name'),
        (
            (state, tmp_path / 'no' / 'b.pth'),
            f'the folder {tmp_path / "no"} does not exist; create it',
        ),
        ((tmp_path / 'c.pth', tmp_path / 'b.pth'), 'c.pth does not exist; give a file that'),
        (
            (broken, tmp_path / 'b.pth'),
            'broken.pth cannot be loaded (torch did not write it); download it again',
        ),
        ((tmp_path / 'none.pth', tmp_path / 'b.pth'), 'has no weights, only optimizer'),
        ((state, tmp_path / 'b.pth', '--from', 'timm'), 'unknown in the format timm'),
    ):
        status, output = tool(*args)
        assert status == 2 and message in output and output.count('\n') == 1, output
    status, output = tool(state, tmp_path / 'b.pth')  # in the format before torch 1.6
    assert status == 0 and "1 CBAM: dict(type='CBAM', start='paper')" in output


def test_options_saved_with_the_weights_are_read_and_code_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self) -> tuple:
            return (exec, ('raise SystemExit',))

    weights = dict(state_dict=Authors(16).state_dict())
    torch.save(weights | dict(args=Namespace(lr=0.1)), tmp_path / 'timm.pth')
    state, _, rest = read_file(tmp_path / 'timm.pth')
    assert rest == ['args'] and detect_format(state) == 'authors'
    torch.save(weights | dict(harm=Harm()), tmp_path / 'harm.pth')
    with pytest.raises(InputError, match='it contains more than weights'):
        read_file(tmp_path / 'harm.pth')


def test_reading_a_checkpoint_does_not_change_the_program_s_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(WEIGHTS_ONLY, raising=False)
    torch.save(dict(state_dict=Authors(16).state_dict()), tmp_path / 'a.pth')
    read_file(tmp_path / 'a.pth')
    assert WEIGHTS_ONLY not in os.environ
    monkeypatch.setenv(WEIGHTS_ONLY, '0')
    read_file(tmp_path / 'a.pth')
    assert os.environ[WEIGHTS_ONLY] == '0'


def test_full_disk_is_an_error_in_one_line(tool, tmp_path, monkeypatch):
    def write_bytes(path: Path, content: bytes) -> None:
        raise OSError(28, 'No space left on device')

    torch.save(Authors(16).state_dict(), tmp_path / 'a.pth')
    monkeypatch.setattr(Path, 'write_bytes', write_bytes)
    status, output = tool(tmp_path / 'a.pth', tmp_path / 'b.pth')
    assert status == 2 and 'No space left' in output and output.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']
