"""Files that are not checkpoints, contain code or are of another model are refused by name."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import nn

from cbam_det.checkpoints import files, loading
from cbam_det.datasets.validation.data_root import set_data_root
from cbam_det.engine import preflight
from cbam_det.models.build import build_model
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import ModelConfig
from cbam_det.utils.split_config import Split

from ..conftest import CONFIG, CONFIGS, QUICK, in_process


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (None, r'the checkpoint .* does not exist'),
        (b'', 'it is empty'),
        (b'\n<!DOCTYPE html><p>not found', 'it is a web page, not weights'),
        ({'state_dict': {}}, 'has no weights'),
        ([1, 2], 'has no weights'),
    ],
    ids=['missing', 'empty', 'html', 'no weights', 'no dictionary'],
)
def test_file_that_is_no_checkpoint_is_named(content, words, tmp_path):
    path = tmp_path / 'epoch_1.pth'
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=words):
        loading.check_checkpoint(str(path), 'checkpoint')


class Dangerous:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), 'w')


def test_logs_of_a_run_with_another_numpy_are_read_and_nothing_is_asked_of_other_classes(
    tmp_path, monkeypatch
):
    monkeypatch.setenv(files.WEIGHTS_ONLY, '1')
    files.read_weights_only()
    logs = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save(dict(state_dict={}, logs=logs, last=np.float64(2)), tmp_path / 'own.pth')
    modules = [b'numpy._core.multiarray', b'numpy.core.multiarray']
    with ZipFile(tmp_path / 'own.pth') as own, ZipFile(tmp_path / 'other.pth', 'w') as other:
        for name in own.namelist():
            data = own.read(name)
            ours, theirs = modules if modules[0] in data else modules[::-1]
            other.writestr(name, data.replace(ours, theirs))
    for name in ('own.pth', 'other.pth'):
        read = CheckpointLoader.load_checkpoint(str(tmp_path / name), 'cpu', logger='silent')
        assert (read['logs'].mean(), read['last']) == (1.5, 2)
    torch.save(dict(state_dict={}, asked=Asking()), tmp_path / 'asking.pth')
    with pytest.raises(InputError, match='it contains more than weights'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'asking.pth'), 'cpu', logger='silent')


class Asking:
    """Is pickled as a method of another class."""

    def __reduce__(self) -> tuple:
        return getattr, (np.ndarray, 'tofile')


@pytest.mark.parametrize('option', ['checkpoint', '--resume', 'load_from', 'init_cfg'])
def test_checkpoint_that_runs_code_is_refused_unread_by_every_way_in(
    option, trained, digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv(files.WEIGHTS_ONLY, raising=False)
    monkeypatch.chdir(tmp_path)
    state = torch.load(trained / 'work/epoch_2.pth', weights_only=False)['state_dict']
    bad = tmp_path / 'bad.pth'
    torch.save(dict(state_dict=state, extra=Dangerous(tmp_path / 'ran')), bad)
    config = CONFIGS / 'faster_rcnn_r50_cbam_digits.py'
    (tmp_path / 'mine.py').write_text(
        f'_base_ = {str(config)!r}\n'
        f"init = dict(_delete_=True, type='Pretrained', checkpoint={str(bad)!r})\n"
        'model = dict(backbone=dict(init_cfg=init))\n'
    )
    arguments = {
        'checkpoint': ('test', config, bad),
        '--resume': ('train', config, '--resume', bad),
        'load_from': ('train', config, '--cfg-options', f'load_from={bad}'),
        'init_cfg': ('train', 'mine.py'),
    }[option]
    tool, *arguments = map(str, (*arguments, '--data-root', digits))
    assert in_process(tool)(*arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'it contains more than weights, which could run any code' in error
    assert 'put TORCH_FORCE_WEIGHTS_ONLY_LOAD=0 before the command' in error
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        ('order=parallel', "was trained with order='channel-spatial' in"),
        ('pools=lp', "was trained with pools=('avg', 'max') in"),
        ('start=paper', 'weights unknown to the model'),
    ],
)
def test_tested_checkpoint_of_other_gates_is_refused(option, words, trained):
    """The order and the pools have no weights: the shapes fit, and the function is another one."""
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam_digits.py')
    key, value = option.split('=')
    cfg.merge_from_dict({f'model.backbone.plugins.0.cfg.{key}': value})
    path = str(trained / 'work/epoch_2.pth')
    with pytest.raises(InputError) as caught:
        model = build_model(cfg)
        checkpoint = loading.check_checkpoint(path, 'checkpoint', model)
        loading.check_same_gates(ModelConfig.from_cfg(cfg), checkpoint)
    assert words in str(caught.value)


@pytest.mark.parametrize('named', [True, False])
def test_resumed_checkpoint_of_other_gates_is_refused(
    named, trained, digits, tmp_path, monkeypatch, capsys
):
    path = trained / 'work/epoch_2.pth'
    options = ['--resume', *[str(path)] * named]
    options += ['--work-dir', str(tmp_path if named else path.parent)]
    options += ['--data-root', str(digits)]
    options += ['--cfg-options', 'model.backbone.plugins.0.cfg.order=parallel']
    assert in_process('train')(CONFIG, *options) == 2
    assert "was trained with order='channel-spatial'" in capsys.readouterr().err.splitlines()[-1]


def test_checkpoint_of_another_activation_is_refused_and_of_its_class_is_not():
    cfg = Config.fromfile(CONFIG)
    gates = cfg.model.backbone.plugins[0].cfg
    gates.act_cfg = dict(type='ReLU')
    checkpoint = dict(meta=dict(cfg=cfg.pretty_text))
    gates.act_cfg = dict(type=nn.ReLU)
    loading.check_same_gates(ModelConfig.from_cfg(cfg), checkpoint)
    gates.act_cfg = dict(type='SiLU')
    with pytest.raises(InputError, match=r"was trained with act_cfg={'type': 'ReLU'}"):
        loading.check_same_gates(ModelConfig.from_cfg(cfg), checkpoint)


def test_same_gates_pass_and_paper_weights_in_an_identity_config_are_told(trained, tmp_path):
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam_digits.py')
    path = str(trained / 'work/epoch_2.pth')
    model = build_model(cfg)
    loading.check_same_gates(
        ModelConfig.from_cfg(cfg), loading.check_checkpoint(path, 'checkpoint', model)
    )
    state = {key: v for key, v in model.state_dict().items() if not key.endswith('.gain')}
    torch.save(dict(state_dict=state), tmp_path / 'paper.pth')
    with pytest.raises(InputError, match='its CBAMs have start=paper'):
        loading.check_checkpoint(str(tmp_path / 'paper.pth'), 'checkpoint', model)


def test_text_file_is_no_checkpoint_and_is_not_to_be_trusted(tmp_path):
    (tmp_path / 'mine.pth').write_text('import os\n')
    with pytest.raises(InputError, match='torch did not write it') as caught:
        loading.check_checkpoint(str(tmp_path / 'mine.pth'), 'checkpoint')
    assert 'WEIGHTS_ONLY' not in str(caught.value)


def test_trusted_checkpoint_is_read(trained, digits, run, tmp_path):
    state = torch.load(trained / 'work/epoch_2.pth', weights_only=False)['state_dict']
    bad = tmp_path / 'bad.pth'
    torch.save(dict(state_dict=state, extra=Dangerous(tmp_path / 'ran')), bad)
    config = CONFIGS / 'faster_rcnn_r50_cbam_digits.py'
    run(
        *('test.py', config, bad, '--data-root', digits, '--cfg-options', *QUICK[-6:]),
        cwd=tmp_path,
        TORCH_FORCE_WEIGHTS_ONLY_LOAD='0',
    )
    assert (tmp_path / 'ran').exists()


def test_truncated_checkpoint_is_named(trained, tmp_path):
    whole = (trained / 'work/epoch_2.pth').read_bytes()
    (tmp_path / 'epoch_2.pth').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r'\(it is truncated or damaged\); use the checkpoint of'):
        loading.check_checkpoint(str(tmp_path / 'epoch_2.pth'), 'checkpoint')


def test_checkpoint_of_another_model_is_refused_with_the_keys(trained, digits, run):
    config = CONFIGS / 'faster_rcnn_r50_digits.py'
    done = run(
        *('test.py', config, 'work/epoch_2.pth', '--data-root', digits), cwd=trained, status=2
    )
    error = done.stderr.splitlines()[-1]
    assert 'weights unknown to the model (backbone.inserted.layer1/0/bn3.cbam' in error
    assert 'use the config that the checkpoint was trained with' in error


def test_pretrained_weights_that_cannot_be_fetched_tell_where_to_put_them(monkeypatch, tmp_path):
    def unreachable(*args, **options):
        raise URLError('no route to host')

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(files.CheckpointLoader, 'load_checkpoint', unreachable)
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam.py')
    with pytest.raises(InputError) as caught:
        loading.check_pretrained(ModelConfig.from_cfg(cfg).pretrained)
    message = str(caught.value)
    assert 'torchvision://resnet50 of model.backbone cannot be loaded (URLError' in message
    assert f'save it as {tmp_path}/hub/checkpoints/resnet50-' in message
    assert 'model.backbone.init_cfg=None' in message


def test_pretrained_weights_in_their_place_are_taken(monkeypatch, tmp_path):
    """The file that the message above asks for, with the names of torchvision's ResNet-50."""
    from torchvision.models import resnet50

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    source = loading._where_to_put('torchvision://resnet50').rpartition(' ')[2]
    Path(source).parent.mkdir(parents=True)
    torch.save(resnet50().state_dict(), source)
    loading.check_pretrained(
        ModelConfig.from_cfg(Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam.py')).pretrained
    )


def test_last_checkpoint_that_is_gone_is_named(digits, tmp_path, monkeypatch, capsys):
    (tmp_path / 'last_checkpoint').write_text('/moved/epoch_3.pth')
    options = ['--work-dir', str(tmp_path), '--resume', '--data-root', str(digits)]
    assert in_process('train')(CONFIG, *options) == 2
    assert 'the checkpoint /moved/epoch_3.pth (--resume) does not exist' in capsys.readouterr().err


def test_detections_of_an_unfit_checkpoint_are_refused(trained, digits, run):
    config = CONFIGS / 'faster_rcnn_r50_digits.py'
    done = run(
        *('visualize.py', 'detections', config, 'work/epoch_2.pth', '--data-root', digits),
        cwd=trained,
        status=2,
    )
    assert 'does not fit the model of this config' in done.stderr.splitlines()[-1]


def test_checkpoint_without_an_optimizer_is_no_place_to_resume_from():
    loading.check_resumable('epoch_1.pth', dict(meta={}, optimizer={}))
    with pytest.raises(InputError, match=r"best it.pth: it has no .*'load_from=best it"):
        loading.check_resumable('best it.pth', dict(meta={}))


def test_training_is_not_resumed_with_the_classes_in_another_order():
    cfg = Config.fromfile(CONFIG)
    split = Split.from_cfg(cfg, 'train')
    names = cfg.train_dataloader.dataset.metainfo.classes
    meta = dict(dataset_meta=dict(classes=names))
    loading.check_checkpoint_classes(split, dict(meta=meta))
    meta['dataset_meta'] = dict(classes=names[::-1])
    with pytest.raises(InputError, match='train_dataloader has them in another order'):
        loading.check_checkpoint_classes(split, dict(meta=meta))


@pytest.mark.parametrize('reverse', [True, False])
def test_weights_with_the_classes_in_another_order_cause_a_warning(
    reverse, digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(CONFIG)
    set_data_root(cfg, str(digits))
    cfg.merge_from_dict(dict(work_dir='work', load_from='weights.pth'))
    classes = tuple(cfg.train_dataloader.dataset.metainfo.classes)
    meta = dict(dataset_meta=dict(classes=classes[::-1] if reverse else classes))
    torch.save(dict(state_dict=build_model(cfg).state_dict(), meta=meta), 'weights.pth')
    assert preflight.check_run(cfg, 'train') is None
    warning = 'load_from=weights.pth: the checkpoint was trained on the classes'
    output = capsys.readouterr().out
    assert (warning in output) == ('them in another order' in output) == reverse
