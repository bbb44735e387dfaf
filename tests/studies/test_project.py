"""The project that is written: its configs are read from any folder and differ as twins do."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import yaml
from mmdet.registry import TASK_UTILS
from mmengine.config import Config
from mmengine.optim import LinearLR
from PIL import Image
from torch.nn import Parameter
from torch.optim import SGD

from cbam_det.datasets.layouts.sets import read_sets
from cbam_det.datasets.validation.config import check_data
from cbam_det.models.build import build_model
from cbam_det.models.plugins import CBAM
from cbam_det.studies import write_project as write_project_module
from cbam_det.studies.choices import CPU, DETECTORS, Facts, choose
from cbam_det.studies.records import config_hash
from cbam_det.studies.study import check_configs, read_study, run_name
from cbam_det.studies.write_project import FILES, Project, write_files, write_project
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from ..conftest import ROOT
from ..datasets.damaged_sets import picture
from ..datasets.layout_folders import items_of, labelimg_voc, roboflow_coco


def write(data: Path, out: Path, **options: object) -> Project:
    return write_project(data, out, progress=False, **options)


@pytest.fixture(scope='module')
def project(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Of a folder with splits; its names have blanks."""
    root = tmp_path_factory.mktemp('a project')
    data = root / 'the data'
    data.mkdir()
    roboflow_coco(data, *items_of(digits))
    return write(data, root / 'of mine' / 'study 1')


def test_project_has_its_files_and_says_the_reason_of_each_value(project):
    names = {path.name for path in project.folder.iterdir()}
    assert names == {*FILES, 'samples.png', 'annotations'}
    written = {path.name for path in (project.folder / 'annotations').iterdir()}
    assert written == {'train.json', 'val.json', 'test.json'}
    text = (project.folder / 'baseline.py').read_text() + (project.folder / 'data.py').read_text()
    one_line = ' '.join(text.replace('\n#', '').split())
    for reason in project.choices.reasons.values():
        assert reason[1:] in one_line
    for file in ('README.md', 'data.py', 'baseline.py', 'cbam.py'):
        for line in (project.folder / file).read_text().splitlines():
            assert len(line) <= 100 or line.startswith('data_root = '), line
    assert len((project.folder / 'README.md').read_text().splitlines()) <= 15


def test_checkpoint_in_the_next_commands_is_one_of_the_config_beside_it(project):
    pages = [path.read_text() for path in (ROOT / 'README.md', ROOT / 'docs/guides/your_data.md')]
    study = read_study(project.folder / 'study.yaml')
    for text in (*pages, (project.folder / 'README.md').read_text()):
        assert 'cbam.py CHECKPOINT' in text
        (pattern,) = re.findall(r'\bwork_dirs/(\S+)/epoch_\*\.pth', text)
        names = {row.name: run_name(study, row, 0) for row in study.rows.values()}
        assert [name for name, run in names.items() if fnmatch(run, pattern)] == ['CBAM']
        assert len(names) == 2


def test_configs_are_read_from_any_folder_and_pass_the_check_of_their_data(
    project, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for folder in (project.folder, Path(os.path.relpath(project.folder))):
        cfg = read_config(str(folder / 'cbam.py'))
        check_data(RunConfig.from_cfg(cfg), ('train', 'val', 'test'), full=True)
    assert cfg.test_dataloader.dataset.ann_file == f'{project.folder}/annotations/test.json'


def test_moved_project_reads_its_own_annotations(project, tmp_path):
    project.folder.rename(tmp_path / 'moved')
    try:
        cfg = Config.fromfile(tmp_path / 'moved/baseline.py')
    finally:
        (tmp_path / 'moved').rename(project.folder)
    assert cfg.val_evaluator.ann_file == f'{tmp_path}/moved/annotations/val.json'


def test_records_of_a_moved_project_are_accepted(project, tmp_path):
    copied = shutil.copytree(project.folder, tmp_path / 'moved')
    studies = [read_study(folder / 'study.yaml') for folder in (project.folder, copied)]
    hashes = {config_hash(study, row, 0) for study in studies for row in [study.rows['baseline']]}
    assert len(hashes) == 1


def differences(one: object, other: object, path: str = '') -> set[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = {*one, *other}
        return set().union(
            *(differences(one.get(key), other.get(key), f'{path}.{key}') for key in keys)
        )
    return set() if one == other else {path.lstrip('.')}


@pytest.mark.parametrize('detector', DETECTORS)
def test_twins_differ_in_the_attention_alone(detector, project, tmp_path):
    folder = tmp_path / 'out'
    choices = choose(Facts.of(project.sets.splits['train']), dict(detector=detector, anchor=16))
    write_files(folder, 'digits', project.sets, choices)
    baseline, cbam = (Config.fromfile(folder / name) for name in ('baseline.py', 'cbam.py'))
    assert differences(baseline.to_dict(), cbam.to_dict()) == {
        *('model.backbone.type', 'model.backbone.base_type', 'model.backbone.plugins'),
        'plugins',
    }
    head = cbam.model.get('roi_head', cbam.model).bbox_head
    assert head.num_classes == len(project.sets.classes)
    with_anchors = cbam.model.get('rpn_head') or head
    boxes = TASK_UTILS.build(with_anchors.anchor_generator).base_anchors[0]
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    assert sides.min().item() == pytest.approx(16, rel=1e-3)
    if DETECTORS[detector].machine is CPU:  # the others are mmdet's own
        cbam.model.backbone.init_cfg = None
        modules = build_model(cbam).modules()
        assert any(isinstance(module, CBAM) for module in modules)


def test_study_compares_the_twins_with_three_seeds(project):
    study = read_study(project.folder / 'study.yaml')
    check_configs(project.folder / 'study.yaml', study)
    assert list(study.rows) == ['baseline', 'CBAM'] and study.rows['CBAM'].against == 'baseline'
    assert study.rows['CBAM'].seeds == [0, 1, 2] and study.metrics['AP'] == 'coco/bbox_mAP'


def test_second_run_leaves_what_is_there(project):
    file = project.folder / 'baseline.py'
    edited = file.read_text() + '# mine\n'
    file.write_text(edited)
    message = r'is not empty \(README\.md, annotations, baseline\.py and 4 more\); give another'
    with pytest.raises(InputError, match=message):
        write(project.sets.root, project.folder)
    assert file.read_text() == edited


def test_nothing_is_left_where_the_data_or_a_value_are_wrong(project, tmp_path):
    out = tmp_path / 'out'
    for data, options, said in (
        (tmp_path / 'none', {}, 'no data folder'),
        (project.sets.root, dict(given=dict(epochs=0)), '--epochs 0'),
        (project.folder / 'annotations', {}, 'COCO files|cannot be used|no images'),
    ):
        with pytest.raises(InputError, match=said):
            write(data, out, **options)
    for name in ("it's", 'a\nb'):
        with pytest.raises(InputError, match='MMEngine cannot read configs from a path with quot'):
            write(project.sets.root, tmp_path / name)
    with pytest.raises(InputError, match=r'cannot be written .*File name too long'):
        write(project.sets.root, tmp_path / ('x' * 300))
    assert not list(tmp_path.iterdir())


def test_image_without_a_pixel_at_the_size_is_named(tmp_path):
    data = tmp_path / 'data'
    data.mkdir()
    for number in range(12):
        picture(data / f'{number}.png', number)
        (data / f'{number}.txt').write_text('0 0.5 0.5 0.5 0.5\n')
    (data / 'classes.txt').write_text('cat')
    Image.new('RGB', (3000, 4)).save(data / '7.png')
    with pytest.raises(InputError, match=r'7\.png has 3000 x 4 pixels; resized to 320 x 320'):
        write(data, tmp_path / 'out')
    write_project(data, tmp_path / 'out', given=dict(size=(640, 640)), progress=False)


@pytest.mark.parametrize('classes', [1, 80])
def test_twelve_images_of_any_number_of_classes_give_a_project(classes, tmp_path):
    data = tmp_path / 'data'
    data.mkdir()
    for number in range(12):
        picture(data / f'{number}.png', number)
        (data / f'{number}.txt').write_text(f'{number % classes} 0.5 0.5 0.5 0.5\n')
    (data / 'classes.txt').write_text('\n'.join(f"it's class {n}" for n in range(classes)))
    sets, folder = read_sets(data, progress=False), tmp_path / 'out'
    write_files(folder, 'it', sets, choose(Facts.of(sets.splits['train']), {}))
    cfg = Config.fromfile(folder / 'cbam.py')
    check_data(RunConfig.from_cfg(cfg), ('train', 'val', 'test'))
    assert cfg.model.bbox_head.num_classes == classes
    assert cfg.train_dataloader.batch_size == 2 and cfg.test_dataloader == cfg.val_dataloader
    assert len(json.loads((folder / 'annotations/val.json').read_text())['images']) == 2


@pytest.mark.parametrize('epochs', [1, 3])
def test_warm_up_of_few_steps_ends_at_the_learning_rate(epochs, project, tmp_path):
    given = dict(epochs=epochs, batch_size=4)
    choices = choose(Facts.of(project.sets.splits['train']), given)
    write_files(tmp_path / 'out', 'digits', project.sets, choices)
    cfg = Config.fromfile(tmp_path / 'out' / 'baseline.py')
    optimizer = SGD([Parameter(torch.zeros(1))], lr=cfg.lr)
    options = dict(cfg.param_scheduler[0])
    assert options.pop('type') == 'LinearLR'
    scheduler = LinearLR(optimizer, **options)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_value() == [pytest.approx(cfg.lr)]


@pytest.mark.parametrize('name', ['caf\udce9', '😀 "a" \\ \x7f', "it's: a # b" + ' c' * 60])
def test_folder_of_any_name_is_read_from_the_study(name, project, tmp_path):
    sets = replace(project.sets, root=Path('/') / name)
    write_files(tmp_path / 'out', 'it', sets, project.choices)
    text = (tmp_path / 'out' / 'study.yaml').read_text(encoding='utf-8')
    assert yaml.safe_load(text)['data'] == f'/{name}/'


def test_folder_that_cannot_be_written_is_refused_before_the_images_are_read(
    project, tmp_path, monkeypatch
):
    (tmp_path / 'file').touch()
    monkeypatch.setattr(write_project_module, 'read_sets', lambda *_: pytest.fail('images read'))
    for out in (tmp_path / 'file' / 'out', tmp_path / 'file' / 'new' / 'out', Path('/proc/out')):
        with pytest.raises(InputError, match=r'out cannot be written .*another folder with --out'):
            write(project.sets.root, out)


def test_an_empty_folder_is_filled_and_not_replaced(digits, tmp_path):
    """It may be a shell's current folder, which would be gone after a renaming."""
    data, out = tmp_path / 'data', tmp_path / 'out'
    data.mkdir()
    labelimg_voc(data, *items_of(digits))
    out.mkdir()
    inode = out.stat().st_ino
    write(data, out)
    assert out.stat().st_ino == inode and (out / 'cbam.py').is_file()
    assert not list(tmp_path.glob('.*partial'))
