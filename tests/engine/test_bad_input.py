"""Bad input ends in one line that names the value, the place and the remedy, and in status 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from zipfile import ZipFile

import mmcv.ops
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner import CheckpointLoader, Runner
from mmengine.utils import digit_version
from torch import nn

from cbam_det import CBAM
from cbam_det.checkpoints import files, loading
from cbam_det.datasets.validation.config import check_data, set_data_root
from cbam_det.datasets.validation.dataset import check_dataset, check_num_classes
from cbam_det.engine import preflight
from cbam_det.engine.runner import CheckedRunner
from cbam_det.models.build import build_model
from cbam_det.utils.config import find_config, kind_of, override, read_config
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import DataSet

from ..conftest import CONFIGS, QUICK, SMALL, free_port, in_process, without_warnings

CONFIG = CONFIGS / 'faster_rcnn_r50_cbam_digits.py'
VOC = CONFIGS / 'faster_rcnn_r50_cbam_digits_voc.py'
ANNOTATIONS = 'annotations/instances_train2017.json'


@pytest.fixture
def copied(digits: Path, tmp_path: Path) -> Path:
    """A copy of the small set that a test may damage."""
    return Path(shutil.copytree(digits, tmp_path / 'digits'))


def change_json(change: Callable[[dict], object], split: str = 'train') -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        file = root / ANNOTATIONS.replace('train', split)
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return damage


def first_image(root: Path) -> Path:
    return root / 'train2017/000000000001.jpg'


COCO_FAULTS = {
    'no folder': (lambda root: shutil.rmtree(root), 'make it: python tools/make_digits.py'),
    'no annotation file': (lambda root: (root / ANNOTATIONS).unlink(), 'no annotation file'),
    'empty annotation file': (lambda root: (root / ANNOTATIONS).write_text(''), 'is no JSON'),
    'a list': (lambda root: (root / ANNOTATIONS).write_text('[]'), "lacks the list 'images'"),
    'another JSON': (
        lambda root: (root / ANNOTATIONS).write_text('{"images": []}'),
        "lacks the list 'annotations'",
    ),
    'an entry without a name': (
        change_json(lambda content: content['images'][0].pop('file_name')),
        "images[0] lacks 'file_name'",
    ),
    'no images listed': (change_json(lambda content: content['images'].clear()), 'lists no images'),
    'unknown category id': (
        change_json(lambda content: content['annotations'][0].update(category_id=77)),
        'annotations[0] has category_id=77',
    ),
    'names for images': (
        change_json(lambda content: content.update(images=['a.jpg'])),
        "lacks the list 'images'",
    ),
    'unknown image id': (
        change_json(lambda content: content['annotations'][1].update(image_id=999)),
        'annotations[1] has image_id=999',
    ),
    **{
        f'annotation without {key}': (
            change_json(lambda content, key=key: content['annotations'][0].pop(key)),
            f"annotations[0] lacks '{key}'",
        )
        for key in ('id', 'image_id', 'category_id', 'bbox', 'area')
    },
    'box of three numbers': (
        change_json(lambda content: content['annotations'][0].update(bbox=[1, 2, 3])),
        'bbox=[1, 2, 3], not four numbers',
    ),
    'box that is not finite': (
        change_json(lambda content: content['annotations'][0].update(bbox=[1, 2, float('nan'), 4])),
        'not four numbers',
    ),
    'no annotations': (
        change_json(lambda content: content['annotations'].clear()),
        'has no annotations',
    ),
    'val annotation without iscrowd': (
        change_json(lambda content: content['annotations'][0].pop('iscrowd'), 'val'),
        "annotations[0] lacks 'iscrowd'",
    ),
    'other categories': (
        change_json(lambda content: content['categories'][3].update(name='thee')),
        "no category 'three' ('thee' is near)",
    ),
    'missing image': (
        lambda root: first_image(root).unlink(),
        f'1 of {SMALL.train} images',
    ),
    'all images missing': (
        lambda root: shutil.rmtree(root / 'train2017'),
        f'{SMALL.train} of {SMALL.train} images',
    ),
    'empty image': (lambda root: first_image(root).write_bytes(b''), '000000000001.jpg (empty)'),
}


@pytest.mark.parametrize(('damage', 'words'), COCO_FAULTS.values(), ids=COCO_FAULTS)
def test_coco_fault_is_named(damage, words, copied):
    damage(copied)
    cfg = Config.fromfile(CONFIG)
    set_data_root(cfg, str(copied))
    with pytest.raises(InputError) as caught:
        check_data(cfg, ('train', 'val'))
    message = str(caught.value)
    assert words in message
    assert str(copied) in message
    assert '\n' not in message


def xml(root: Path) -> Path:
    return root / 'VOCdevkit/VOC2007/Annotations/000000000001.xml'


def change_list(change: Callable[[str], str]) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        file = root / 'VOCdevkit/VOC2007/ImageSets/Main/trainval.txt'
        file.write_text(change(file.read_text()))

    return damage


def change_xml(old: str, new: str) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        assert old in xml(root).read_text()
        xml(root).write_text(xml(root).read_text().replace(old, new))

    return damage


VOC_FAULTS = {
    'second column': (
        change_list(lambda text: text.replace('\n', ' 1\n')),
        "line 1: '000000000001 1' is no image name",
    ),
    'blank line': (change_list(lambda text: f'{text}\n'), "line 13: '' is no image name"),
    'object without a box': (change_xml('bndbox', 'box'), 'object 1 has no bndbox'),
    'object without a name': (change_xml('name>', 'class>'), 'object 1 has no name'),
    'box of words': (change_xml('<xmin>', '<xmin>left'), 'object 1 has no bndbox of four numbers'),
    'no list': (
        lambda root: (root / 'VOCdevkit/VOC2007/ImageSets/Main/trainval.txt').unlink(),
        'test.txt',
    ),
    'empty list': (
        lambda root: (root / 'VOCdevkit/VOC2007/ImageSets/Main/trainval.txt').write_text('\n'),
        'lists no images',
    ),
    'no annotation': (lambda root: xml(root).unlink(), f'1 of {SMALL.train} annotations'),
    'broken annotation': (lambda root: xml(root).write_text('<annotation>'), 'is no XML'),
    'missing image': (
        lambda root: (root / 'VOCdevkit/VOC2007/JPEGImages/000000000001.jpg').unlink(),
        f'1 of {SMALL.train} images',
    ),
}


@pytest.mark.parametrize(('damage', 'words'), VOC_FAULTS.values(), ids=VOC_FAULTS)
def test_voc_fault_is_named(damage, words, copied):
    damage(copied)
    cfg = Config.fromfile(VOC)
    set_data_root(cfg, str(copied / 'VOCdevkit/VOC2007'))
    with pytest.raises(InputError, match=words):
        check_data(cfg, ('train', 'val'))


def test_voc_classes_of_another_set_are_named(copied):
    cfg = Config.fromfile(VOC)
    set_data_root(cfg, str(copied / 'VOCdevkit/VOC2007'))
    dataset = cfg.train_dataloader.dataset
    dataset.metainfo = dict(classes=('zero', 'cat'))
    with pytest.raises(InputError, match="no category 'cat'"):
        check_dataset(DataSet.of(dataset))
    dataset.metainfo = dict(classes=('zero', 'one'))
    said = str(check_dataset(DataSet.of(dataset)))
    assert 'ignored, since the config leaves them out: ' in said
    assert 'and 5 more' in said


@pytest.mark.parametrize(
    ('config', 'kind', 'site'),
    [(CONFIG, 'CocoDataset', 'cocodataset'), (VOC, 'VOCDataset', 'host.robots.ox')],
)
def test_folder_of_somebody_s_own_data_is_to_be_corrected_not_fetched(config, kind, site):
    init_default_scope('mmdet')
    dataset = Config.fromfile(config).train_dataloader.dataset
    dataset.data_root = '/no/such'
    with pytest.raises(InputError, match="correct the data set's data_root, or name its folder"):
        check_dataset(DataSet.of(dataset))
    dataset.update(type=kind, metainfo=None)  # COCO's or VOC's own classes
    with pytest.raises(InputError, match=f'get the data .{site}'):
        check_dataset(DataSet.of(dataset))


def test_full_check_finds_the_truncated_image_that_the_quick_one_passes(copied):
    first_image(copied).write_bytes(first_image(copied).read_bytes()[:900])
    (copied / 'train2017/000000000002.jpg').write_text('<html>not found</html>')
    dataset = Config.fromfile(CONFIG).train_dataloader.dataset
    dataset.data_root = str(copied)
    summary = check_dataset(DataSet.of(dataset))
    assert (summary.images, len(summary.classes)) == (SMALL.train, 10)
    with pytest.raises(InputError, match=f'2 of {SMALL.train} images .*unreadable'):
        check_dataset(DataSet.of(dataset), full=True)


def test_number_of_classes_has_to_fit_the_head():
    model = Config.fromfile(CONFIG).model
    check_num_classes(model, ('a',) * 10)
    with pytest.raises(InputError, match=r'set model.roi_head.bbox_head.num_classes=3'):
        check_num_classes(model, ('a', 'b', 'c'))


def test_evaluator_of_another_folder_is_named(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(CONFIG)
    cfg.val_dataloader.dataset.data_root = str(digits)
    with pytest.raises(InputError, match=r"val_evaluator.ann_file='data/digits/annotations"):
        check_data(cfg, ('val',))


def test_data_root_with_several_roots_is_refused(digits):
    cfg = Config.fromfile(CONFIG)
    cfg.val_dataloader.dataset.data_root = 'elsewhere/'
    with pytest.raises(InputError, match='several data roots'):
        set_data_root(cfg, str(digits))


def test_coco_config_without_data_shows_the_layout_and_the_embedded_set(run, tmp_path):
    done = run('train.py', CONFIGS / 'faster_rcnn_r50_cbam.py', cwd=tmp_path, status=2)
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f'error: no data folder data/coco below {tmp_path}')
    assert 'annotations/instances_train2017.json' in error
    assert 'faster_rcnn_r50_cbam_digits.py' in error
    assert 'Traceback' not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_amp_in_float16_without_a_gpu_is_refused_before_anything_is_read(run, tmp_path):
    options = ('--amp', '--cfg-options', 'optim_wrapper.dtype=float16')
    done = run('train.py', CONFIG, *options, cwd=tmp_path, status=2, CUDA_VISIBLE_DEVICES='')
    assert "error: optim_wrapper.dtype='float16' needs a GPU" in done.stderr
    assert "give optim_wrapper.dtype='bfloat16'" in done.stderr
    assert 'Traceback' not in done.stderr


def test_unknown_config_lists_near_ones(run, tmp_path):
    done = run('train.py', 'configs/faster_rcnn_r50_cbam_digit.py', cwd=tmp_path, status=2)
    assert 'no config configs/faster_rcnn_r50_cbam_digit.py' in done.stderr
    assert 'faster_rcnn_r50_cbam_digits' in done.stderr
    with pytest.raises(InputError, match='near: '):
        find_config('something/else.py')


def test_a_shipped_config_that_is_taken_by_its_name_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    path = find_config('configs/faster_rcnn_r50_cbam_digits.py')
    assert Path(path) == CONFIGS / 'faster_rcnn_r50_cbam_digits.py'
    assert capsys.readouterr().err == f'config: {path}\n'
    assert find_config(path) == find_config('faster_rcnn_r50_cbam_digits', tell=False) == path
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (None, 'no checkpoint'),
        (b'', 'it is empty'),
        (b'\n<!DOCTYPE html><p>not found', 'it is a web page, not weights'),
        ({'state_dict': {}}, 'holds no weights'),
        ([1, 2], 'holds no weights'),
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
    if digit_version(torch.__version__) < digit_version('2.6.0'):  # else MMEngine allows it
        torch.save(dict(state_dict={}, asked=Asking()), tmp_path / 'asking.pth')
        with pytest.raises(InputError, match='more than weights is pickled in it'):
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
    assert 'more than weights is pickled in it, which could run any code' in error
    assert 'put TORCH_FORCE_WEIGHTS_ONLY_LOAD=0 before the command' in error
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        ('order=parallel', "was trained with order='channel-spatial' of"),
        ('pools=lp', "was trained with pools=('avg', 'max') of"),
        ('start=paper', 'carries'),
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
        loading.check_same_gates(cfg, checkpoint)
    assert words.replace('carries', 'weights unknown to the model') in str(caught.value)


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
    loading.check_same_gates(cfg, checkpoint)
    gates.act_cfg = dict(type='SiLU')
    with pytest.raises(InputError, match=r"was trained with act_cfg={'type': 'ReLU'}"):
        loading.check_same_gates(cfg, checkpoint)


def test_types_that_are_classes_have_their_names_of_the_registry():
    named = {CBAM: 'CBAM', 'mmdet.ResNet': 'ResNet', nn.SyncBatchNorm: 'SyncBatchNorm', None: ''}
    named |= dict.fromkeys((mmcv.ops.SyncBatchNorm, 'mmcv.ops.SyncBatchNorm'), 'MMSyncBN')
    for kind, name in named.items():
        assert kind_of(dict(type=kind)) == name


def test_every_process_looks_names_up_in_mmdet_not_only_the_one_that_checks(monkeypatch):
    found = classmethod(lambda cls, cfg: MODELS.build(dict(type='L1Loss')))
    monkeypatch.setattr(Runner, 'from_cfg', found)
    monkeypatch.setattr(preflight, 'is_first_process', lambda cfg: False)
    cfg = Config.fromfile(CONFIG)
    cfg.default_scope = None  # as pure Python configs have it
    with DefaultScope.overwrite_default_scope('mmengine'):
        assert type(CheckedRunner.from_cfg(cfg)).__module__.startswith('mmdet.')


def test_same_gates_pass_and_paper_weights_in_an_identity_config_are_told(trained, tmp_path):
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam_digits.py')
    path = str(trained / 'work/epoch_2.pth')
    model = build_model(cfg)
    loading.check_same_gates(cfg, loading.check_checkpoint(path, 'checkpoint', model))
    state = {key: v for key, v in model.state_dict().items() if not key.endswith('.gain')}
    torch.save(dict(state_dict=state), tmp_path / 'paper.pth')
    with pytest.raises(InputError, match='its CBAMs have start=paper'):
        loading.check_checkpoint(str(tmp_path / 'paper.pth'), 'checkpoint', model)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'model.backbone.base_type': 'ResNe'}, 'ResNe is not in the'),
        ({'model.backbone.plugins.0.cfg.norm_cfg': dict(type='BatchNorm')}, 'a type is misspelt'),
        ({'model.backbone.plugins.0.cfg.kernal_size': 3}, "keyword argument 'kernal_size'"),
    ],
)
def test_misspelt_type_or_option_is_one_line(change, words):
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam_digits.py')
    cfg.merge_from_dict(change)
    with pytest.raises(InputError, match=words):
        build_model(cfg)


def test_text_file_is_no_checkpoint_and_is_not_to_be_trusted(tmp_path):
    (tmp_path / 'mine.pth').write_text('import os\n')
    with pytest.raises(InputError, match='it is no file of torch') as caught:
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
    with pytest.raises(InputError, match=r'\(it is cut off or damaged\); take another epoch'):
        loading.check_checkpoint(str(tmp_path / 'epoch_2.pth'), 'checkpoint')


def test_checkpoint_of_another_model_is_refused_with_the_keys(trained, digits, run):
    config = CONFIGS / 'faster_rcnn_r50_digits.py'
    done = run(
        *('test.py', config, 'work/epoch_2.pth', '--data-root', digits), cwd=trained, status=2
    )
    error = done.stderr.splitlines()[-1]
    assert 'weights unknown to the model (backbone.inserted.layer1/0/bn3.cbam' in error
    assert 'give the config that the checkpoint was trained with' in error


def test_pretrained_weights_that_cannot_be_fetched_tell_where_to_put_them(monkeypatch, tmp_path):
    def unreachable(*args, **options):
        raise URLError('no route to host')

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(files.CheckpointLoader, 'load_checkpoint', unreachable)
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam.py')
    with pytest.raises(InputError) as caught:
        loading.check_pretrained(cfg)
    message = str(caught.value)
    assert 'torchvision://resnet50 of model.backbone cannot be loaded (URLError' in message
    assert f'put it at {tmp_path}/hub/checkpoints/resnet50-' in message
    assert 'model.backbone.init_cfg=None' in message


def test_pretrained_weights_in_their_place_are_taken(monkeypatch, tmp_path):
    """The file that the message above asks for, with the names of torchvision's ResNet-50."""
    from torchvision.models import resnet50

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    source = loading._where_to_put('torchvision://resnet50').rpartition(' ')[2]
    Path(source).parent.mkdir(parents=True)
    torch.save(resnet50().state_dict(), source)
    loading.check_pretrained(Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam.py'))


BAD_COMMANDS = {
    'no key=value': (['--cfg-options', 'foo'], '--cfg-options takes key=value pairs'),
    'no such plugin': (
        ['--cfg-options', 'model.backbone.plugins.5.cfg.order=parallel'],
        'do not fit',
    ),
    'unknown order': (
        ['--cfg-options', 'model.backbone.plugins.0.cfg.order=space'],
        "order='space' is unknown; choose from channel-spatial",
    ),
    'misspelt option': (
        ['--cfg-options', 'model.backbone.plugins.0.cfg.reduction=8'],
        "unexpected keyword argument 'reduction'",
    ),
    'misspelt key of a backbone': (
        ['--cfg-options', 'model.backbone.plugin.0.cfg.order=channel'],
        "ResNet.__init__() got an unexpected keyword argument 'plugin' (model.backbone.plugin; "
        'near: plugins)',
    ),
    'misspelt hook': (
        ['--cfg-options', 'default_hooks.loger.interval=1'],
        "default_hooks.loger={'interval': 1} has no type; near: logger",
    ),
    'misspelt option of a hook of every run': (
        ['--cfg-options', 'default_hooks.attention_audit.saturation=1'],
        'saturation is unknown, AttentionAuditHook has no such option; near: saturation_at',
    ),
    'hook without a type': (
        ['--cfg-options', 'default_hooks.mine.x=1'],
        "default_hooks.mine={'x': 1} has no type; give default_hooks.mine.type too",
    ),
    'misspelt type of a hook': (
        ['--cfg-options', 'default_hooks.ema.type=EmaHook'],
        "default_hooks.ema.type='EmaHook' is not registered; near: EMAHook",
    ),
    'misspelt setting of the checks': (
        ['--cfg-options', 'preflight.check_image=True'],
        'preflight.check_image is unknown; near: check_images',
    ),
    'key of an inner part alone': (
        ['--cfg-options', 'val_interval=2'],
        'val_interval of the options would have no effect (train_cfg.val_interval)',
    ),
    'key of another part': (
        ['--cfg-options', 'model.neck.depth=3'],
        "FPN.__init__() got an unexpected keyword argument 'depth' (model.neck.depth)",
    ),
    'misspelt key of the config': (
        ['--cfg-options', 'optim_wraper.accumulative_counts=4'],
        'optim_wraper of the options would have no effect; near: optim_wrapper',
    ),
    'launcher without torchrun': (['--launcher', 'pytorch'], 'use tools/dist_train.sh'),
    'checkpoint to resume from is gone': (['--resume', 'gone.pth'], 'no checkpoint gone.pth'),
}


@pytest.mark.parametrize(('options', 'words'), BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_bad_command_ends_in_one_line_before_anything_is_written(
    options, words, digits, tmp_path, monkeypatch, capsys
):
    """In this process, which has imported everything; the tests above start the tools."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('RANK', raising=False)
    assert in_process('train')(CONFIG, '--data-root', digits, *options) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith('error: ') and words in error[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--out', 'a.json'], '--out a.json: predictions are pickled; end it in .pkl'),
        (['--launcher', 'pytorch'], 'use tools/dist_test.sh'),
        (['--show-dir', 'a'], 'draw by default_hooks.visualization, which mine.py has not'),
        ([], 'no checkpoint gone.pth (checkpoint)'),
    ],
)
def test_bad_command_of_a_test_ends_in_one_line_before_anything_is_written(
    options, words, digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('RANK', raising=False)
    hooks = "default_hooks = dict(_delete_=True, logger=dict(type='LoggerHook'))"
    Path('mine.py').write_text(f'_base_ = {str(CONFIG)!r}\n{hooks}\n')
    assert in_process('test')('mine.py', 'gone.pth', '--data-root', digits, *options) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith('error: ') and words in error[0]
    assert [path.name for path in tmp_path.iterdir()] == ['mine.py']


def test_ablation_of_a_config_without_attention_is_named():
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_digits.py')
    cfg.merge_from_dict({'model.backbone.plugins.0.cfg.order': 'channel'})
    with pytest.raises(InputError, match='there has to be attention at that place: take the _cbam'):
        build_model(cfg)


def test_misspelt_key_of_the_schedule_is_named(digits, tmp_path, monkeypatch, capsys):
    options = ['--work-dir', str(tmp_path), '--data-root', str(digits)]
    options += ['--cfg-options', 'train_cfg.max_epoch=1']
    assert in_process('train')(CONFIG, *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("argument 'max_epoch' (train_cfg.max_epoch; near: max_epochs)")


def test_misspelt_key_of_a_config_s_own_is_told(capsys):
    cfg = Config(dict(optim_wraper=dict(accumulative_counts=4), train_pipeline=[]))
    preflight.check_names(cfg)
    said = capsys.readouterr().out
    assert said == 'MMEngine reads no optim_wraper of the config; near: optim_wrapper\n'
    leaves = [Config.fromfile(path) for path in CONFIGS.glob('*.py')]
    for cfg in leaves:
        preflight.check_names(cfg)
    assert len(leaves) > 40 and capsys.readouterr().out == ''


def test_variable_of_a_config_that_an_option_comes_too_late_for_is_told(capsys):
    cfg = override(Config.fromfile(CONFIG), dict(max_epochs=2, custom=3))
    assert cfg.train_cfg.max_epochs == 5
    assert capsys.readouterr().err.splitlines() == [
        'max_epochs of the options: MMEngine reads no such key, and the config has used its own '
        'when it was read',
        'custom of the options: MMEngine reads no such key',
    ]


@pytest.mark.parametrize('name', ['epoch_2.pth', 'iter_90.pth', 'stopped.pth', 'last_checkpoint'])
def test_run_that_would_overwrite_another_one_s_checkpoints_does_not_begin(
    name, digits, tmp_path, monkeypatch, capsys
):
    (tmp_path / name).write_text('of a run before')
    options = ['--work-dir', str(tmp_path), '--data-root', str(digits)]
    assert in_process('train')(CONFIG, *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f'{tmp_path} holds {name} of a run before, which this one would overwrite' in error
    assert 'give another --work-dir, go on with that run by --resume, or move the files' in error
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / name).rename(tmp_path / 'converted.pth')  # which no run writes
    preflight.check_unused(str(tmp_path))


def test_last_checkpoint_that_is_gone_is_named(digits, tmp_path, monkeypatch, capsys):
    (tmp_path / 'last_checkpoint').write_text('/moved/epoch_3.pth')
    options = ['--work-dir', str(tmp_path), '--resume', '--data-root', str(digits)]
    assert in_process('train')(CONFIG, *options) == 2
    assert 'no checkpoint /moved/epoch_3.pth (--resume)' in capsys.readouterr().err


@pytest.mark.parametrize(
    'text', ['model = dict(', "_base_ = 'mmdet::no/such.py'", "_base_ = './absent.py'"]
)
def test_config_that_cannot_be_read_is_named(text, tmp_path):
    (tmp_path / 'mine.py').write_text(text)
    with pytest.raises(InputError, match='cannot be read as a config'):
        read_config(str(tmp_path / 'mine.py'))


def test_detections_of_an_unfit_checkpoint_are_refused(trained, digits, run):
    config = CONFIGS / 'faster_rcnn_r50_digits.py'
    done = run(
        *('visualize.py', 'detections', config, 'work/epoch_2.pth', '--data-root', digits),
        cwd=trained,
        status=2,
    )
    assert 'does not fit the model of this config' in done.stderr.splitlines()[-1]


def test_several_processes_repeat_the_error_as_their_last_line(run, tmp_path):
    config = CONFIGS / 'faster_rcnn_r50_cbam.py'
    environment = dict(PORT=str(free_port()), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    done = run('dist_train.sh', config, 2, cwd=tmp_path, status=1, **environment)
    assert done.stderr.splitlines()[-1].startswith('error: no data folder data/coco')


def test_picture_of_another_kind_is_refused_before_the_work(run, tmp_path):
    done = run('visualize.py', 'curves', 'nowhere', '--out', 'a.pdf', cwd=tmp_path, status=2)
    assert without_warnings(done.stderr) == 'error: a.pdf is no picture that can be written; ' + (
        'end it in .png, .svg or .jpg\n'
    )


def test_launcher_that_needs_gpus_is_refused_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = Config(dict(launcher='slurm'))
    with pytest.raises(InputError, match='on CPUs use tools'):
        preflight.adapt_to_cpu(cfg)
