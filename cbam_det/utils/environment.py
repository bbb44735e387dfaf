"""The software that cbam_det needs, the problems of this installation, and their remedies."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from ..version import __version__
from .errors import first_few
from .hidden_modules import hiding_files


@dataclass(frozen=True)
class Problem:
    """A problem that prevents training, and its remedy."""

    description: str
    remedy: str

    def __str__(self) -> str:
        return f'{self.description}\n    remedy: {self.remedy}'


@dataclass(frozen=True)
class Library:
    """A library: its module, its two distributions, and its versions from `lowest` to `below`."""

    module: str
    maintained: str
    original: str
    lowest: str
    below: str

    @property
    def distributions(self) -> list[str]:
        """The names of its distributions that pip has installed."""
        names = dict.fromkeys(pin.partition('==')[0] for pin in (self.maintained, self.original))
        return [name for name in names if any(importlib.metadata.Distribution.discover(name=name))]

    @property
    def version(self) -> str | None:
        """The installed version; None if pip has not installed it."""
        return importlib.metadata.version(self.distributions[0]) if self.distributions else None


TORCH = Library('torch', 'torch==2.12.1', 'torch==2.5.1', '2.0', '3')

TORCHVISION = Library('torchvision', 'torchvision==0.27.1', 'torchvision==0.20.1', '0.15', '1')

MMENGINE = Library('mmengine', 'onedl-mmengine==0.10.12', 'mmengine==0.10.7', '0.8.3', '1')

MMCV = Library('mmcv', 'onedl-mmcv==2.3.6', 'mmcv==2.1.0', '2.0.0', '3')

MMDET = Library('mmdet', 'onedl-mmdetection==3.5.1', 'mmdet==3.3.0', '3.0.0', '4')

LIBRARIES = (TORCH, TORCHVISION, MMENGINE, MMCV, MMDET)
# Import errors of a torchvision that was built for another torch.
WRONG_TORCH = re.compile(
    r"undefined symbol|cannot import name|has no attribute|No module named 'torch\b|"
    r'does not exist|compiled with different|version'
)


def _install_command(library: Library) -> str:
    original = any(
        candidate.original.partition('==')[0] in candidate.distributions
        for candidate in (MMENGINE, MMCV, MMDET)
    )
    pin = library.original if original else library.maintained
    if library is MMCV:
        return (
            'pip install ninja packaging "setuptools<81" wheel && '
            f'pip install --no-build-isolation {pin}  # compiles for about 15 minutes'
        )
    if library in (TORCH, TORCHVISION):
        torch, vision = (
            (TORCH.original, TORCHVISION.original)
            if original
            else (TORCH.maintained, TORCHVISION.maintained)
        )
        return f'pip install {torch} {vision}'
    return f'pip install {pin}'


def _rebuild_command() -> str:
    """The command that compiles the operators of the installed mmcv again."""
    name = MMCV.distributions[0] if MMCV.distributions else 'onedl-mmcv'
    return (
        'pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps '
        f'{name}=={MMCV.version}'
    )


def explain_import_error(library: Library, error: BaseException) -> Problem:
    """The cause of a failed import of an installed library, and its remedy."""
    text = _first_line(error)
    description = f'{library.module} {library.version or ""} cannot be imported ({text})'
    if files := hiding_files():
        return Problem(
            f'{description}: Python imports {first_few(files)} instead of its own module of '
            'that name',
            'rename that file, or run the command in another folder',
        )
    if 'libGL' in text or 'libgthread' in text or 'libglib' in text:
        return Problem(description, 'apt-get install libgl1 libglib2.0-0  # OpenCV needs them')
    if 'is used but incompatible' in text:  # mmdet 3.3.0's assertion on mmcv's version
        return Problem(description, _install_command(MMCV))
    if 'torchvision::nms' in text or (library is TORCHVISION and WRONG_TORCH.search(text)):
        return Problem(
            f'{description}: it was not built for torch {TORCH.version}', _install_command(TORCH)
        )
    if 'pkg_resources' in text:
        return Problem(description, 'pip install "setuptools<81"')
    # Operators for another torch may load, and then take a tensor of the CPU for one of a GPU.
    signs = ('mmcv._ext', 'undefined symbol', 'mmcv/_ext', 'implementation for device')
    if any(sign in text for sign in signs):
        return Problem(
            f'{description}: its operators were not compiled for this torch', _rebuild_command()
        )
    return Problem(description, _install_command(library))


def _first_line(error: BaseException) -> str:
    return f'{type(error).__name__}: {error}'.strip().splitlines()[0]


def check_library(library: Library) -> Problem | None:
    """The problem of a library that is missing, installed twice, broken or of a wrong version."""
    if len(library.distributions) > 1:
        both = ' and '.join(library.distributions)
        return Problem(
            f'{both} are both installed and overwrite each other',
            f'pip uninstall -y {" ".join(library.distributions)} && {_install_command(library)}',
        )
    try:
        module = importlib.import_module(library.module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == library.module:
            return Problem(f'{library.module} is not installed', _install_command(library))
        return explain_import_error(library, error)
    version = str(library.version or getattr(module, '__version__', ''))
    try:
        supported = Version(library.lowest) <= Version(version) < Version(library.below)
    except InvalidVersion:
        return None  # a source tree without a version may work
    if not supported:
        return Problem(
            f'{library.module} {version} is not supported: cbam_det needs '
            f'>={library.lowest},<{library.below}',
            _install_command(library),
        )
    return None


def check_libraries() -> list[Problem]:
    """The problems of all libraries, in the order in which to fix them."""
    problems = [problem for library in LIBRARIES if (problem := check_library(library))]
    mmcv = importlib.util.find_spec('mmcv')
    if mmcv and mmcv.origin and not any(Path(mmcv.origin).parent.glob('_ext*')):
        problems.append(
            Problem(
                f'mmcv {MMCV.version} has no compiled operators (it is mmcv-lite or was built '
                'without)',
                f'pip uninstall -y mmcv-lite mmcv onedl-mmcv && {_install_command(MMCV)}',
            )
        )
    return problems


def check_operators() -> Problem | None:
    """The problem of mmcv's compiled operators on the device that a run would use, if any.

    Call it only if `check_libraries` finds no problem.
    """
    try:
        kept_boxes = _kept_by_nms('cpu')
    except Exception as error:
        return explain_import_error(MMCV, error)
    if kept_boxes != [0]:
        return Problem(
            f'mmcv.ops.nms kept boxes {kept_boxes} instead of [0]', _install_command(MMCV)
        )
    if check_device()[0] == 'cpu':
        return None
    import torch

    number, count = int(os.environ.get('LOCAL_RANK', 0)), torch.cuda.device_count()
    if number >= count:
        return Problem(
            f'process {number} of this machine needs GPU {number}, but torch sees {count} GPUs, '
            'counted from 0',
            f'start {count} processes, or check CUDA_VISIBLE_DEVICES',
        )
    device = f'cuda:{number}'
    try:
        _kept_by_nms(device)
    except Exception as error:
        return Problem(
            f"mmcv's operators do not run on {device} ({_first_line(error)})",
            f'{_rebuild_command()}  # or put CUDA_VISIBLE_DEVICES= before the command to use the '
            'CPU',
        )
    return None


def _kept_by_nms(device: str) -> list[int]:
    """The indices that mmcv's non-maximum suppression keeps of two equal boxes: [0]."""
    import torch
    from mmcv.ops import nms

    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9]], device=device)
    return nms(boxes, torch.tensor([0.9, 0.8], device=device), 0.5)[1].tolist()


def check_checkpoints() -> Problem | None:
    """The problem of versions with which MMEngine cannot read its own checkpoints, if any."""
    if not TORCH.version or not MMENGINE.version or 'mmengine' not in MMENGINE.distributions:
        return None
    if Version(TORCH.version) < Version('2.6') or Version(MMENGINE.version) > Version('0.10.7'):
        return None
    return Problem(
        f'mmengine {MMENGINE.version} cannot read its own checkpoints under torch {TORCH.version} '
        '(since 2.6, torch.load reads only weights by default)',
        f'{_install_command(TORCH)}  # or move to the stack of requirements/',
    )


def check_device() -> tuple[str, str]:
    """The device that runs use, 'cuda' or 'cpu', and the name of the GPU or why it is not used."""
    import torch
    from mmcv.ops import get_compiling_cuda_version

    if not torch.cuda.is_available():
        return 'cpu', 'torch sees no GPU'
    if get_compiling_cuda_version() == 'not available':
        return 'cpu', without_cuda(f'{torch.cuda.get_device_name()} is')
    return 'cuda', torch.cuda.get_device_name()


def without_cuda(subject: str) -> str:
    """Why runs use the CPU if mmcv was built without CUDA, and the remedy.

    Args:
        subject: the GPUs with the verb, such as 'NVIDIA H200 is' or '2 GPUs are'.
    """
    reason = '' if shutil.which('nvcc') else ', because no nvcc was found'
    toolkit_step = 'install the CUDA toolkit, then ' if reason else ''
    compiled = f"mmcv's operators were compiled for the CPU{reason}"
    return f'{subject} available, but {compiled}; {toolkit_step}{_rebuild_command()}'


def keep_memory() -> bool:
    """Make glibc reuse the memory that this process frees, instead of returning it to the system.

    On a CPU, the first write to a new memory page costs more than the arithmetic on large maps. In
    exchange, the process keeps the memory of its peak. See mallopt(3).

    Returns:
        Whether glibc does so now. It does not with another C library, or if the environment sets
        options of glibc (`MALLOC_…`, `GLIBC_TUNABLES`).
    """
    configured = any(name.startswith('MALLOC_') or name == 'GLIBC_TUNABLES' for name in os.environ)
    if configured or platform.libc_ver()[0] != 'glibc':
        return False
    trim_threshold, mmap_max = -1, -4  # names of <malloc.h>
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, -1))  # -1: the largest size_t


def describe() -> dict[str, str]:
    """The versions and the hardware, for the record of a result."""
    import torch

    processor = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.is_file():
        models = re.findall(r'^model name\s*: (.+)$', cpuinfo.read_text(), re.MULTILINE)
        processor = models[0] if models else processor
    hardware = f'{processor}, {os.cpu_count()} cores'
    if torch.cuda.is_available():
        hardware += f', {torch.cuda.device_count()} x {torch.cuda.get_device_name()}'
    return dict(
        cbam_det=__version__,
        python=platform.python_version(),
        **{library.module: library.version or 'unknown' for library in LIBRARIES},
        hardware=hardware,
    )


def stack_error() -> str | None:
    """The problems of torch, torchvision, mmengine, mmcv and mmdet with their remedies, or None."""
    problems = check_libraries()
    if not problems:
        return None
    return (
        'cbam_det cannot work with the libraries of this environment:\n'
        + '\n'.join(f'  - {problem}' for problem in problems)
        + f'\n`{sys.executable} -m cbam_det_tools doctor` shows the whole environment.'
    )


def require_stack() -> None:
    """Raise the message of `stack_error`, if there is one.

    Raises:
        ImportError: torch, torchvision, mmengine, mmcv or mmdet is missing or does not work.
    """
    if error := stack_error():
        raise ImportError(error)
