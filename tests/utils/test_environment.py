"""The messages of a broken environment, and the report of the doctor."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from cbam_det.engine import launch, preflight
from cbam_det.utils import environment
from cbam_det.utils.environment import MMCV, MMDET, MMENGINE, TORCHVISION, explain_import_error
from cbam_det.utils.errors import InputError

from ..conftest import ROOT

DOCTOR = str(ROOT / 'tools/doctor.py')


def python(code: str, folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Run code where the packages of `folder` hide the installed ones."""
    return subprocess.run(
        [sys.executable, *options, *(['-c', code] if code else [])],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(folder), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )


def broken(folder: Path, module: str, body: str) -> None:
    (folder / module).mkdir()
    (folder / module / '__init__.py').write_text(body)


FAULTS = """
import resource, numpy
from cbam_det.utils.environment import keep_memory

print(keep_memory())
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
numpy.ones(2**24)
before = faults()
numpy.ones(2**24)
print(faults() - before)
"""


@pytest.mark.skipif(environment.platform.libc_ver()[0] != 'glibc', reason='mallopt is of glibc')
def test_memory_that_is_freed_is_used_again_without_page_faults(monkeypatch):
    for name in [*os.environ]:
        if name.startswith('MALLOC_') or name == 'GLIBC_TUNABLES':
            monkeypatch.delenv(name)
    kept, faults = python(FAULTS, ROOT).stdout.split()
    assert kept == 'True' and int(faults) < 20
    monkeypatch.setenv('MALLOC_ARENA_MAX', '4')  # the user's own options of glibc
    kept, faults = python(FAULTS, ROOT).stdout.split()
    assert kept == 'False' and int(faults) > 20  # 64 where pages are huge


@pytest.mark.parametrize(
    ('module', 'pin'),
    [
        ('mmengine', 'onedl-mmengine=='),
        ('mmcv', 'onedl-mmcv=='),
        ('mmdet', 'onedl-mmdetection=='),
    ],
)
def test_import_with_a_missing_library_names_it_and_the_command(module, pin, tmp_path):
    code = f'import sys; sys.modules[{module!r}] = None; from cbam_det import CBAM'
    done = python(code, tmp_path)
    assert done.returncode == 1
    assert 'ImportError: cbam_det cannot work with' in done.stderr
    assert f'{module} is not installed' in done.stderr
    assert pin in done.stderr or f'{module}==' in done.stderr
    assert 'remedy: pip install' in done.stderr


def test_import_with_an_unsupported_version_names_range_and_command(monkeypatch):
    monkeypatch.setattr(environment.Library, 'version', property(lambda self: '2.28.0'))
    problem = environment.check_library(MMDET)
    assert 'mmdet 2.28.0 is not supported: cbam_det needs >=3.0.0,<4' in problem.description
    assert problem.remedy.startswith('pip install ')


@pytest.mark.parametrize('module', ['mmengine', 'mmcv', 'mmdet'])
def test_import_of_a_library_that_fails_is_explained(module, tmp_path):
    broken(tmp_path, module, 'raise ImportError("libGL.so.1: cannot open shared object file")')
    for code, options in (('from cbam_det import CheckedRunner', ()), ('', ('-u', DOCTOR))):
        done = python(code, tmp_path, *options)
        assert done.returncode == 1
        assert 'apt-get install libgl1 libglib2.0-0' in done.stdout + done.stderr
        assert 'Traceback' not in done.stdout + done.stderr or not options


@pytest.mark.parametrize(
    ('library', 'text', 'remedy'),
    [
        (MMCV, 'libGL.so.1: cannot open', 'apt-get install libgl1 libglib2.0-0'),
        (MMCV, "No module named 'mmcv._ext'", '--no-cache-dir --force-reinstall'),
        (MMCV, '/x/_ext.so: undefined symbol: _ZN3c10', '--no-cache-dir --force-reinstall'),
        (MMCV, 'nms_impl: implementation for device cuda:0 not found.', '--no-cache-dir'),
        (TORCHVISION, 'operator torchvision::nms does not exist', 'torchvision=='),
        (MMENGINE, "No module named 'pkg_resources'", 'setuptools<81'),
        (MMDET, 'MMCV==2.2.0 is used but incompatible. Please install mmcv<2.2.0', 'mmcv=='),
        (MMDET, 'anything else', 'pip install '),
    ],
)
def test_known_import_errors_have_their_remedy(library, text, remedy):
    problem = explain_import_error(library, ImportError(text))
    assert remedy in problem.remedy
    assert text.split(':')[-1].strip() in problem.description


def test_commands_with_an_explanation_can_be_pasted(monkeypatch):
    """Their explanation is a comment of the shell."""
    cls = environment.Library
    monkeypatch.setattr(cls, 'distributions', property(lambda self: [self.module]))
    monkeypatch.setattr(cls, 'version', property(lambda self: self.original.partition('==')[2]))
    remedies = [environment._install_command(library) for library in environment.LIBRARIES]
    remedies.append(explain_import_error(MMCV, ImportError('libGL.so.1: cannot open')).remedy)
    for remedy in remedies:
        subprocess.run(['bash', '-n', '-c', remedy], check=True)
        command = shlex.split(remedy, comments=True)
        assert command[0] in ('pip', 'apt-get') and 'compiles' not in command


def test_remedy_keeps_to_the_stack_that_is_there(monkeypatch):
    installed = {'mmengine', 'mmcv'}
    monkeypatch.setattr(
        environment.Library,
        'distributions',
        property(lambda self: [self.module] if self.module in installed else []),
    )
    assert environment._install_command(MMDET) == 'pip install mmdet==3.3.0'
    installed.clear()
    assert environment._install_command(MMDET) == 'pip install onedl-mmdetection==3.5.1'


def test_two_stacks_at_once_are_a_problem(monkeypatch):
    monkeypatch.setattr(
        environment.Library, 'distributions', property(lambda self: ['mmdet', 'onedl-mmdetection'])
    )
    problem = environment.check_library(MMDET)
    assert 'overwrite each other' in problem.description
    assert problem.remedy == (
        'pip uninstall -y mmdet onedl-mmdetection && pip install mmdet==3.3.0'
    )


def test_mmcv_without_operators_is_a_problem(tmp_path):
    broken(tmp_path, 'mmcv', '__version__ = "2.1.0"')
    done = python('from cbam_det import CBAM', tmp_path)
    assert done.returncode == 1
    assert 'has no compiled operators' in done.stderr and '--no-build-isolation' in done.stderr


@pytest.fixture
def gpu_without_nvcc(monkeypatch):
    """A GPU that torch sees, and no nvcc."""
    import torch

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Some GPU')
    monkeypatch.setattr(environment.shutil, 'which', lambda name: None)


def test_gpu_without_cuda_operators_stays_on_the_cpu_with_the_reason(gpu_without_nvcc, monkeypatch):
    import mmcv.ops

    monkeypatch.setattr(mmcv.ops, 'get_compiling_cuda_version', lambda: 'not available')
    device, why = environment.check_device()
    assert device == 'cpu'
    assert 'Some GPU is available' in why and 'no nvcc' in why and '--no-cache-dir' in why
    with pytest.raises(InputError, match='; or put CUDA_VISIBLE_DEVICES= before the command'):
        preflight.prepare(Config(dict(model=dict())))  # where our tools have not hidden it before
    monkeypatch.setattr(mmcv.ops, 'get_compiling_cuda_version', lambda: '13.0')
    assert environment.check_device() == ('cuda', 'Some GPU')


def test_gpu_for_which_the_operators_were_not_compiled_has_a_remedy(gpu_without_nvcc, monkeypatch):
    import mmcv.ops

    def fails_there(device: str) -> list[int]:
        if device == 'cpu':
            return [0]
        raise RuntimeError(f'no kernel image is available for {device}')

    monkeypatch.setenv('LOCAL_RANK', '1')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(mmcv.ops, 'get_compiling_cuda_version', lambda: '13.0')
    monkeypatch.setattr(environment, '_kept_by_nms', fails_there)
    problem = environment.check_operators()
    assert "mmcv's operators do not run on cuda:1 (RuntimeError: no kernel" in problem.description
    assert re.match('pip install .*mmcv==[^ ]+  # or put CUDA_VISIBLE_DEVICES= b', problem.remedy)


def test_process_without_a_gpu_of_its_own_is_told_how_many_there_are(gpu_without_nvcc, monkeypatch):
    import mmcv.ops

    monkeypatch.setenv('LOCAL_RANK', '4')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setattr(mmcv.ops, 'get_compiling_cuda_version', lambda: '13.0')
    problem = environment.check_operators()
    assert problem.description.endswith('needs GPU 4, but torch sees 4 GPUs, counted from 0')
    assert problem.remedy.startswith('start 4 processes')


HIDE = """
import os, sys, torch
torch.cuda.device_count = lambda: 3
from cbam_det_tools import hide_gpus_without_operators

print(hide_gpus_without_operators(), os.environ.get('CUDA_VISIBLE_DEVICES'))
print(sorted({'mmcv', 'mmengine'} & set(sys.modules)), torch.cuda.is_initialized())
from mmcv.ops import get_compiling_cuda_version, nms
from mmengine.device import get_device

boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9]])
print(get_compiling_cuda_version(), get_device(), nms(boxes, boxes[:, 2], 0.5)[1].tolist())
"""


def test_gpus_are_hidden_before_mmengine_asks_for_them_where_mmcv_cannot_use_them(tmp_path):
    """The operators' file is loaded twice then, once without mmcv."""
    done = python(HIDE, tmp_path)
    assert done.returncode == 0, done.stderr
    hidden, modules, then = done.stdout.splitlines()
    assert modules == '[] False'
    if then.startswith('not available'):
        assert (hidden, then) == ('3 ', 'not available cpu [0]')
    else:
        assert hidden.startswith('0 ') and then.endswith('[0]')


def test_processes_without_gpus_say_how_many_there_are(capsys):
    args = Namespace(launcher='none', local_rank=0)
    launch.run_tool(lambda args: None, args, hidden_gpus=2)
    message = capsys.readouterr().err
    assert message.startswith("running on the CPU: 2 GPUs are available, but mmcv's operators were")


@pytest.mark.parametrize(
    ('launcher', 'environment_of_launcher', 'rank'),
    [
        ('slurm', {'SLURM_LOCALID': '3'}, '3'),
        ('mpi', {'OMPI_COMM_WORLD_LOCAL_RANK': '2'}, '2'),
        ('pytorch', {'LOCAL_RANK': '1', 'SLURM_LOCALID': '0'}, '1'),
        ('none', {'SLURM_LOCALID': '3'}, '0'),  # srun starts one run per process
    ],
)
def test_process_knows_its_gpu_before_the_first_use_of_one(
    launcher, environment_of_launcher, rank, monkeypatch
):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    for name, value in environment_of_launcher.items():
        monkeypatch.setenv(name, value)
    seen = []

    def check() -> None:
        seen.append(os.environ['LOCAL_RANK'])

    monkeypatch.setattr(launch, 'check_operators', check)
    launch.run_tool(lambda args: None, Namespace(launcher=launcher, local_rank=0))
    assert seen == [rank]


def test_checkpoints_that_cannot_be_read_back_are_a_problem(monkeypatch):
    versions = {'torch': '2.6.0', 'mmengine': '0.10.7'}
    cls = environment.Library
    monkeypatch.setattr(cls, 'version', property(lambda self: versions[self.module]))
    monkeypatch.setattr(cls, 'distributions', property(lambda self: [self.module]))
    problem = environment.check_checkpoints()
    assert 'mmengine 0.10.7 cannot read its own' in problem.description
    command = ['pip', 'install', 'torch==2.5.1', 'torchvision==0.20.1']
    assert shlex.split(problem.remedy, comments=True) == command
    versions['torch'] = '2.5.1'
    assert environment.check_checkpoints() is None


def test_doctor_reports_a_sound_environment(tmp_path):
    done = python('', tmp_path, DOCTOR)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ('operators', 'CBAM is registered', 'Ready to train', 'not found'):
        assert words in done.stdout
    assert 'OneDL' not in done.stdout + done.stderr


def test_doctor_runs_where_the_import_fails_and_exits_with_status_1(tmp_path):
    broken(tmp_path, 'mmdet', 'raise ImportError("boom")')
    done = python('', tmp_path, DOCTOR)
    assert done.returncode == 1
    assert 'PROBLEM' in done.stdout and 'boom' in done.stdout and 'remedy' in done.stdout


def test_what_needs_no_mmdet_can_be_imported_where_it_is_broken_with_a_warning(tmp_path):
    broken(tmp_path, 'mmdet', 'raise ImportError("boom")')
    done = python('import cbam_det; print(cbam_det.__version__)', tmp_path)
    assert done.returncode == 0 and done.stdout[0].isdigit()
    assert 'UserWarning: cbam_det cannot register its modules in MMEngine: ' in done.stderr
    assert 'boom' in done.stderr and 'remedy: pip install' in done.stderr
    parts = ('checkpoints.convert', 'datasets.validation.coco')
    for part in parts:
        assert python(f'import cbam_det.{part}', tmp_path).returncode == 0


def test_installing_the_package_asks_for_no_part_of_the_stack():
    from importlib.metadata import requires

    names = {requirement.split()[0].lower() for requirement in requires('cbam_det')}
    assert not names & {'torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet'}


def test_every_folder_of_the_source_is_a_package_of_the_wheel():
    tomllib = pytest.importorskip('tomllib')  # of Python 3.11 on
    listed = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['setuptools']
    package = [*ROOT.glob('cbam_det/**/*.py'), *ROOT.glob('cbam_det/**/*.jinja')]
    names = {'.'.join(path.parent.relative_to(ROOT).parts) for path in package}
    configs = ROOT.glob('configs/**/*.py')
    names |= {'.'.join(('cbam_det', *path.parent.relative_to(ROOT).parts)) for path in configs}
    assert set(listed['packages']) == names | set(listed['package-dir'])
