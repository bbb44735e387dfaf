"""Everything that reads weights rejects files that would run code and damaged files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmdet.apis import DetInferencer, init_detector
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from PIL import Image
from torch import nn

from cbam_det.apis.inference import Predictor
from cbam_det.checkpoints import files, integrity, loading
from cbam_det.checkpoints.attention import pretrained_parts
from cbam_det.models.build import build_model
from cbam_det.studies import measures
from cbam_det.studies.study import read_study
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError
from cbam_det.visualization import report
from tools import app as app_tool
from tools import export as export_tool
from tools import predict as predict_tool

from ..conftest import CONFIGS, ROOT, free_port, in_process

RETINANET = CONFIGS / 'retinanet_mobilenetv2_cbam_digits.py'
REFUSED = 'it contains more than weights, which could run any code'


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), 'w')


@pytest.fixture(scope='module')
def weights() -> dict:
    cfg = read_config(str(RETINANET))
    return build_model(cfg).state_dict()


@pytest.fixture
def bad(weights: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's checkpoint with an object in `meta` that creates the file `ran` when unpickled."""
    monkeypatch.delenv(files.WEIGHTS_ONLY, raising=False)
    monkeypatch.chdir(tmp_path)
    meta = dict(epoch=1, iter=9, dataset_meta=dict(classes=('cat',)), extra=Payload(Path('ran')))
    folder = tmp_path / 'work'
    folder.mkdir()
    torch.save(dict(meta=meta, state_dict=weights, optimizer={}), folder / 'epoch_1.pth')
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
    read_config(str(RETINANET)).dump(folder / RETINANET.name)
    (folder / 'log/vis_data').mkdir(parents=True)
    (folder / 'log/vis_data/scalars.json').write_text('{"loss": 1.0, "iter": 1, "step": 1}\n')
    return folder / 'epoch_1.pth'


def snippet(bad: Path) -> None:
    """Run the documentation's example of an export up to the line that reads the weights."""
    text = (ROOT / 'docs' / 'guides' / 'export.md').read_text()
    code = re.search(
        r'```python\n.*?(from cbam_det\.apis\.export import.*?)\nprepared = ', text, re.S
    )[1]
    code = re.sub(r"'configs/\w+\.py'", repr(str(RETINANET)), code).replace(
        'work_dirs/retinanet_r50_cbam/epoch_12.pth', str(bad)
    )
    assert str(RETINANET) in code and str(bad) in code
    exec(code, {})


def init_cfg(bad: Path) -> None:
    """MMEngine's own initialisation, which mmdet's train.py uses."""
    init = dict(type='Pretrained', checkpoint=str(bad))
    BaseModule(init_cfg=init).init_weights()


def audited(bad: Path) -> list:
    module = BaseModule(init_cfg=dict(type='Pretrained', checkpoint=str(bad)))
    return list(pretrained_parts(module))


def pretrained(bad: Path) -> None:
    cfg = read_config(str(RETINANET))
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(bad))
    Predictor(cfg)


def runner_s_own(bad: Path) -> None:
    """`load_from` and `resume` of MMEngine's runner, which mmdet's train.py uses."""
    model = nn.Linear(1, 1)
    runner = Runner(model, str(bad.parent / 'runner'), load_from=str(bad))
    runner.load_or_resume()


def gates_of_a_run(bad: Path) -> object:
    file = bad.parent / 'study.yaml'
    file.write_text(
        'title: a study\nmetrics: {AP: coco/bbox_mAP}\nseeds: [0]\n'
        f'rows:\n  plain: {{config: {RETINANET}}}\n'
    )
    study = read_study(file)
    return measures._weights(study, study.rows['plain'], 0, bad.parent, 1, None)


def predict_tool_s(bad: Path) -> object:
    (bad.parent / 'picture.jpg').touch()
    arguments = [str(bad.parent / 'picture.jpg'), str(RETINANET), str(bad)]
    return predict_tool.run(predict_tool.parse_args(arguments))


def app_tool_s(bad: Path) -> object:
    arguments = [str(RETINANET), str(bad), '--port', str(free_port())]
    return app_tool.run(app_tool.parse_args(arguments))


PATHS: dict[str, Callable[[Path], object]] = {
    'read_checkpoint': lambda bad: files.read_checkpoint(
        str(bad), 'the checkpoint', 'download it again'
    ),
    'read_file': files.read_file,
    'check_checkpoint': lambda bad: loading.check_checkpoint(str(bad), 'load_from'),
    'last_readable_checkpoint': lambda bad: loading.last_readable_checkpoint(str(bad.parent)),
    'Predictor': lambda bad: Predictor(read_config(str(RETINANET)), str(bad)),
    "Predictor's init_cfg": pretrained,
    'pretrained_parts': audited,
    'report.write': lambda bad: report.write(bad.parent, 'report.html'),
    'docs, export': snippet,
    'init_detector': lambda bad: init_detector(str(RETINANET), str(bad), device='cpu'),
    'DetInferencer': lambda bad: DetInferencer(str(RETINANET), str(bad), device='cpu'),
    'load_checkpoint': lambda bad: load_checkpoint(nn.Linear(1, 1), str(bad)),
    'CheckpointLoader': lambda bad: CheckpointLoader.load_checkpoint(str(bad)),
    "MMEngine's init_cfg": init_cfg,
    "MMEngine's runner": runner_s_own,
    'experiment.py gates': gates_of_a_run,
    'tools/predict.py': predict_tool_s,
    'tools/app.py': app_tool_s,
    'tools/export.py': lambda bad: export_tool.write(
        export_tool.parse_args([str(RETINANET), str(bad), '--out', 'net.onnx'])
    ),
}


@pytest.mark.parametrize('path', PATHS)
def test_every_call_rejects_a_payload_in_a_checkpoint_without_running_it(path, bad, capfd):
    with pytest.raises(InputError, match=REFUSED):
        PATHS[path](bad)
    assert not Path('ran').exists()
    assert files.WEIGHTS_ONLY not in os.environ or path == 'report.write'
    output = ''.join(capfd.readouterr())
    assert 'weights_only' not in output  # torch and MMEngine explain how to read it unsafely


def picture(bad: Path) -> Path:
    path = bad.parent / 'picture.png'
    Image.new('RGB', (64, 64)).save(path)
    return path


COMMANDS = {
    'export': lambda bad: (RETINANET, bad, '--out', 'net.onnx'),
    'convert_checkpoint': lambda bad: (bad, 'out.pth'),
    'visualize report': lambda bad: (bad.parent, '--out', 'report.html'),
    'visualize detections': lambda bad: (RETINANET, bad),
    'visualize pr': lambda bad: (RETINANET, bad),
    'visualize focus': lambda bad: (RETINANET, bad, '--out', 'focus.json'),
    'visualize attention': lambda bad: (picture(bad), RETINANET, bad),
    'visualize gradcam': lambda bad: (picture(bad), RETINANET, bad),
}


@pytest.mark.parametrize('command', COMMANDS)
def test_tools_reject_a_payload_in_one_line(command, bad, capsys):
    """`train.py` and `test.py` have their tests in tests/engine/test_bad_checkpoints.py."""
    tool, *words = command.split()
    assert in_process(tool)(*words, *COMMANDS[command](bad)) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith('error: ')]
    assert REFUSED in line and 'weights_only' not in line
    assert not Path('ran').exists()


def test_weights_are_read_in_one_place_of_the_repository():
    """A new place needs a row in PATHS."""
    folders = ('cbam_det', 'tools', 'benchmarks', 'examples')
    readers = re.compile(
        r'\btorch\.load\(|\bload_url\(|\bpickle\.loads?\(|load_state_dict_from_url'
    )
    calls_by_file = {
        path.relative_to(ROOT).as_posix(): readers.findall(path.read_text())
        for folder in folders
        for path in (ROOT / folder).rglob('*.py')
    }
    assert {name: calls for name, calls in calls_by_file.items() if calls} == {
        'cbam_det/checkpoints/files.py': ['torch.load('],
        'cbam_det/models/backbones/weights.py': ['torch.load('],
    }
    text = (ROOT / 'cbam_det/models/backbones/weights.py').read_text()
    assert "torch.load(file, map_location='cpu', weights_only=True)" in text


def saved(path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(dict(state_dict=nn.Linear(64, 64).state_dict(), optimizer={}, meta={}), path)
    return path


def flip(path: Path, count: int = 4096) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 - count // 2
    data[middle : middle + count] = bytes(byte ^ 0xFF for byte in data[middle : middle + count])
    path.write_bytes(data)


@pytest.mark.parametrize('count', [1, 4096])
def test_flipped_bytes_in_a_checkpoint_are_an_error(count, tmp_path):
    path = saved(tmp_path / 'a.pth')
    assert loading.check_checkpoint(str(path), 'checkpoint')['state_dict']
    flip(path, count)
    assert torch.load(path, weights_only=True)  # torch does not notice
    with pytest.raises(InputError, match=r'it is damaged: wrong checksum of \S+/data/0'):
        loading.check_checkpoint(str(path), 'checkpoint')
    with pytest.raises(InputError, match=re.escape(f'{path} cannot be loaded (it is damaged')):
        load_checkpoint(nn.Linear(64, 64), str(path))


def test_damage_to_the_directory_of_a_checkpoint_is_named_wherever_it_is(tmp_path):
    data = saved(tmp_path / 'a.pth').read_bytes()
    found = set()
    for place in range(data.find(b'PK\1\2'), len(data)):
        damaged = tmp_path / f'{place}.pth'
        damaged.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            integrity.check_file(damaged)
        except integrity.Unreadable as error:
            found.add(error.fault.partition(':')[0])
    assert found == {'it is truncated or damaged', 'it is damaged'}


@pytest.mark.parametrize(
    'content',
    [
        b'\0' * 40,
        b'\xff\xfe\x80',
        b'x' * 9000,
        b'a\nb',
        b'{other}/epoch_7.pth',
        b'/gone/epoch_1.pth',
    ],
    ids=['zeros', 'not UTF-8', 'too long', 'two lines', 'another folder', 'a folder that is gone'],
)
def test_resume_finds_a_checkpoint_if_last_checkpoint_is_damaged(content, tmp_path):
    work, other_run = tmp_path / 'work', tmp_path / 'other'
    work.mkdir()
    other_run.mkdir()
    saved(other_run / 'epoch_7.pth')
    for number in (1, 2):
        os.utime(saved(work / f'epoch_{number}.pth'), (number, number))
    last = work / 'last_checkpoint'
    last.write_bytes(content.replace(b'{other}', os.fsencode(other_run)))
    newest = 1 if b'epoch_1' in content else 2  # the folder was moved: the same name, in it
    assert loading.last_readable_checkpoint(str(work)) == str(work / f'epoch_{newest}.pth')


def test_damaged_last_checkpoint_without_checkpoints_is_an_error(tmp_path):
    (tmp_path / 'last_checkpoint').write_bytes(b'\xff')
    with pytest.raises(InputError, match='last_checkpoint is damaged'):
        loading.last_readable_checkpoint(str(tmp_path))


def test_variable_that_lets_files_run_code_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    path = saved(tmp_path / 'a.pth')
    monkeypatch.delenv(files.WEIGHTS_ONLY, raising=False)
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    for read in (files.read_file, lambda path: load_checkpoint(nn.Linear(64, 64), str(path))):
        with pytest.raises(InputError, match='unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
            read(path)
    (tmp_path / 'last_checkpoint').write_text(str(path))
    with pytest.raises(InputError, match='unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        loading.last_readable_checkpoint(str(tmp_path))
    monkeypatch.setenv(files.WEIGHTS_ONLY, '0')  # trusted
    assert files.read_file(path)[0]
