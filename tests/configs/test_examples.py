"""The projects in examples/, trained with the commands of mim and mmdet."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from cbam_det import CBAM
from cbam_det.checkpoints.attention import check_attention, pretrained_parts
from cbam_det.datasets.digits import CLASSES
from cbam_det.models.attention_modules import has_doubled_gates

from ..conftest import CONFIGS, QUICK, ROOT

EXAMPLES = ROOT / 'examples'
PACKAGES = ('onedl-mim==0.5.1', 'onedl-mmsegmentation==1.4.2', 'onedl-mmpretrain==1.3.6')
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


@pytest.fixture(scope='module')
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a copy of this environment that also has mim, mmseg and mmpretrain."""
    home = tmp_path_factory.mktemp('environment')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(home)], check=True)
    paths = sysconfig.get_paths(vars=dict(base=str(home), platbase=str(home)), scheme='venv')
    # addsitedir instead of a path, so that editable installs work too.
    parent = sysconfig.get_paths()['purelib']
    Path(paths['purelib'], 'parent.pth').write_text(f'import site; site.addsitedir({parent!r})\n')
    python = Path(paths['scripts'], 'python')
    install = [str(python), '-m', 'pip', 'install', '-q', *PACKAGES]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f'pip cannot install {" ".join(PACKAGES)}:\n{done.stderr[-3000:]}'
    return python.parent


def places(depth: int, pattern: str) -> list[str]:
    """The names of the CBAMs in all blocks of a ResNet, from a pattern with stage and block."""
    return [
        pattern.format(stage, block)
        for stage, count in enumerate(BLOCKS[depth], 1)
        for block in range(count)
    ]


def small(data: Path, *options: str) -> list[str]:
    """Options for a run on `data` that takes seconds."""
    roots = [f'{split}_dataloader.dataset.data_root={data}' for split in ('train', 'val')]
    save = 'default_hooks.checkpoint.save_optimizer=False'
    # MMEngine's own runner does not know the hook that this option turns off.
    quick = [option for option in QUICK if option != 'default_hooks.run_report=None']
    return ['--work-dir', 'work', '--cfg-options', *quick, *roots, save, *options]


def small_coco(data: Path, *options: str) -> list[str]:
    """The same for a detector on the small digits."""
    options += ('model.backbone.init_cfg=None', 'train_cfg.max_epochs=1')
    options += (f'val_evaluator.ann_file={data}/annotations/instances_val2017.json',)
    for split, resize in (('train', 2), ('val', 1)):
        dataset = f'{split}_dataloader.dataset'
        options += (f'{dataset}.metainfo.classes={",".join(CLASSES)}',)
        options += (f'{dataset}.pipeline.{resize}.scale=(96,96)',)
    return small(data, *options)


def train(project: str, *command: object, folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Run a command in a copy of a project; returns the weights and the output."""
    folder = shutil.copytree(EXAMPLES / project, folder / project)
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, f'exit status {done.returncode}:\n{output[-4000:]}'
    checkpoint = Path((folder / 'work/last_checkpoint').read_text())
    state = torch.load(checkpoint, map_location='cpu', weights_only=False)['state_dict']
    checkpoint.unlink()  # pytest keeps folders of three sessions
    assert all(torch.isfinite(value).all() for value in state.values())
    return state, output


def cbam_places(state: dict[str, torch.Tensor]) -> list[str]:
    """The modules with a CBAM in a checkpoint."""
    end = '.cbam.channel_gate.fc1.weight'
    return [name.removesuffix(end) for name in state if name.endswith(end)]


def trained_places(state: dict[str, torch.Tensor]) -> list[str]:
    """The modules whose CBAM was trained: this bias starts at 0."""
    return [
        name for name in cbam_places(state) if state[f'{name}.cbam.spatial_gate.norm.bias'] != 0
    ]


@pytest.mark.parametrize(('name', 'count'), [('faster_rcnn_r50', 16), ('retinanet_r18', 6)])
def test_mmdet_example_builds_with_its_cbams(name, count):
    cfg = Config.fromfile(EXAMPLES / f'mmdet_project/{name}_cbam.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    assert sum(isinstance(module, CBAM) for module in model.modules()) == count


def test_mmseg_example_starts_from_the_identity(tmp_path, monkeypatch):
    """Its base is not installed here and is replaced by one line."""
    base = tmp_path / '.mim/configs/pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py'
    base.parent.mkdir(parents=True)
    base.write_text("model = dict(backbone=dict(type='ResNetV1c'))\n")
    monkeypatch.setitem(sys.modules, 'mmseg', SimpleNamespace(__path__=[str(tmp_path)]))
    cfg = Config.fromfile(EXAMPLES / 'mmseg_project/pspnet_r50_cbam.py')
    (plugin,) = cfg.model.backbone.plugins
    assert has_doubled_gates(MODELS.build(dict(plugin.cfg, in_channels=32)))


@pytest.mark.slow
def test_mim_trains_the_mmdet_example(scripts, digits, tmp_path):
    state, output = train(
        *('mmdet_project', scripts / 'mim', 'train', 'mmdetection', 'faster_rcnn_r50_cbam.py'),
        *small_coco(digits, 'model.roi_head.bbox_head.num_classes=10'),
        folder=tmp_path,
    )
    assert 'Epoch(train) [1][3/3]' in output and 'Training finished successfully' in output
    assert cbam_places(state) == places(50, 'backbone.layer{}.{}')
    assert trained_places(state) == cbam_places(state)[3:]  # mmdet freezes layer1


@pytest.mark.slow
def test_mmdet_s_own_tool_trains_the_example_with_plugins_in_a_resnet_18(digits, tmp_path):
    import mmdet

    # From scratch the residual branches start at zero, and the frozen ones would stay there.
    options = (
        *('model.bbox_head.num_classes=10', 'model.backbone.zero_init_residual=False'),
        'model.backbone.plugins.0.stages=(True,True,True,True)',
    )
    state, output = train(
        *('mmdet_project', sys.executable, f'{mmdet.__path__[0]}/.mim/tools/train.py'),
        *('retinanet_r18_cbam.py', *small_coco(digits, *options)),
        folder=tmp_path,
    )
    assert 'Epoch(train) [1][3/3]' in output
    assert cbam_places(state) == places(18, 'backbone.inserted.layer{}/{}/bn2')
    assert trained_places(state) == cbam_places(state)  # also those after the frozen layer1


@pytest.mark.slow
def test_mim_trains_the_mmseg_example(scripts, tmp_path):
    random = np.random.default_rng(0)
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (tmp_path / 'ade' / kind / split).mkdir(parents=True)
        for number in range(4):
            image = random.integers(0, 256, (64, 64, 3), np.uint8)
            mask = random.integers(0, 151, (2, 2), np.uint8).repeat(32, 0).repeat(32, 1)
            Image.fromarray(image).save(tmp_path / f'ade/images/{split}/{number}.jpg')
            Image.fromarray(mask).save(tmp_path / f'ade/annotations/{split}/{number}.png')
    state, output = train(
        *('mmseg_project', scripts / 'mim', 'train', 'mmseg', 'pspnet_r50_cbam.py'),
        *small(tmp_path / 'ade', 'model.pretrained=None', 'model.data_preprocessor.size=(64,64)'),
        *('train_dataloader.dataset.pipeline.2.scale=(64,64)', 'train_cfg.max_iters=2'),
        *('train_dataloader.dataset.pipeline.3.crop_size=(64,64)', 'train_cfg.val_interval=2'),
        *('val_dataloader.dataset.pipeline.1.scale=(64,64)', 'default_hooks.checkpoint.interval=2'),
        folder=tmp_path,
    )
    assert 'Iter(train) [2/2]' in output and 'mIoU' in output
    assert sum(name.endswith('_gate.gain') for name in state) == 32  # from the identity
    assert cbam_places(state) == places(50, 'backbone.layer{}.{}')
    assert trained_places(state) == cbam_places(state)


def small_imagenet(folder: Path) -> Path:
    """Eight images of eight classes to train on, and eight to score."""
    random, root = np.random.default_rng(0), folder / 'imagenet'
    (root / 'meta').mkdir(parents=True)
    for split in ('train', 'val'):
        (root / split).mkdir()
        for number in range(8):
            image = random.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(image).save(root / f'{split}/{number}.jpg')
        lines = ''.join(f'{number}.jpg {number}\n' for number in range(8))
        (root / f'meta/{split}.txt').write_text(lines)
    return root


@pytest.mark.slow
def test_mim_trains_the_mmpretrain_example_of_the_authors_size(scripts, tmp_path):
    imagenet = small_imagenet(tmp_path)
    state, output = train(
        *('mmpretrain_project', scripts / 'mim', 'train', 'mmpretrain', 'resnet50_cbam.py'),
        *small(imagenet, 'train_cfg.max_epochs=1'),
        *('train_dataloader.dataset.pipeline.1.scale=64', 'val_dataloader.batch_size=4'),
        *(f'val_dataloader.dataset.pipeline.{option}=64' for option in ('1.scale', '2.crop_size')),
        folder=tmp_path,
    )
    assert 'Epoch(train) [1][2/2]' in output and 'accuracy/top1' in output
    assert cbam_places(state) == places(50, 'backbone.inserted.layer{}/{}/bn3')
    assert trained_places(state) == cbam_places(state)
    buffers = ('running_mean', 'running_var', 'num_batches_tracked')
    assert sum(v.numel() for name, v in state.items() if not name.endswith(buffers)) == 28_089_624


# Tables 4 and 5: the authors' counts, and those of the same layout by hand.
IMAGENET = {
    'resnet18_cbam': 11_779_392,
    'resnet34_cbam': 21_960_468,
    'resnet50_cbam': 28_089_624,
    'resnet101_cbam': 49_330_172,
    'wide_resnet18_cbam': 45_971_256,
    'resnext50_32x4d_cbam': 27_561_496,
    'resnext101_32x4d_cbam': 48_958_716,
    'mobilenet_cbam': 5_074_714,
}
COUNT = """
import sys, cbam_det, mmpretrain.models
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
init_default_scope('mmpretrain')
for path in sys.argv[1:]:
    model = MODELS.build(Config.fromfile(path).model)
    print('counted', sum(parameter.numel() for parameter in model.parameters()))
"""


@pytest.mark.slow
def test_every_imagenet_recipe_has_the_parameters_of_the_paper(scripts):
    paths = [str(CONFIGS / f'imagenet/{name}.py') for name in IMAGENET]
    done = subprocess.run(
        [scripts / 'python', '-c', COUNT, *paths], capture_output=True, text=True, check=True
    )
    counted = [int(line.split()[1]) for line in done.stdout.splitlines() if 'counted' in line]
    assert counted == list(IMAGENET.values())
    assert {path.stem for path in (CONFIGS / 'imagenet').glob('*.py')} == set(IMAGENET)


@pytest.mark.slow
def test_pretrained_backbone_of_the_recipe_loads_whole_into_the_detector(scripts, tmp_path):
    folder = tmp_path / 'project'
    folder.mkdir()
    options = small(small_imagenet(tmp_path), 'train_cfg.max_epochs=1')
    sizes = ('train_dataloader.dataset.pipeline.1.scale=64', 'val_dataloader.batch_size=4')
    sizes += ('val_dataloader.dataset.pipeline.1.scale=64',)
    sizes += ('val_dataloader.dataset.pipeline.2.crop_size=64',)
    recipe = CONFIGS / 'imagenet/resnet50_cbam.py'
    done = subprocess.run(
        [*map(str, (scripts / 'mim', 'train', 'mmpretrain', recipe, *options, *sizes))],
        cwd=folder,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    checkpoint = (folder / 'work/last_checkpoint').read_text()
    state = torch.load(checkpoint, map_location='cpu', weights_only=False)['state_dict']
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam.py')
    # As docs/guides/weights.md says: in the frozen first stage too, with the recipe's start.
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
    cfg.model.backbone.plugins = [dict(cfg=dict(type='CBAM', start='paper'), stages=(True,) * 4)]
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    [(_, part, _, weights)] = list(pretrained_parts(model))
    check_attention(weights, part, checkpoint, whole=True)
    model.init_weights()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[f'backbone.{name}']), name
    Path(checkpoint).unlink()
