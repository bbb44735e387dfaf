"""The command-line tools of cbam_det: `python tools/NAME.py`, or `cbam-det NAME`.

Each tool parses its arguments and looks for the files that they name before it imports cbam_det,
which imports torch and mmdet.
"""

import argparse
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

TOOLS = {
    'init': 'write two configs for your own data, with and without CBAM',
    'train': 'train a detector or a classifier',
    'test': 'test a detector or a classifier, and write its metrics',
    'predict': 'detect objects in images and videos; draw and list the boxes',
    'app': 'open a page in the browser: drop an image, click a detection',
    'visualize': 'draw data, detections, curves, attention and Grad-CAM; write reports',
    'check-data': 'check a COCO or VOC folder, and write a clean copy of its annotations',
    'places': 'list the places for CBAM in a detector, and print the config for them',
    'convert-checkpoint': 'convert weights of other implementations, or between layouts and starts',
    'export': 'export a detector as ONNX or TorchScript',
    'compare': 'train a detector with and without attention on your data, and compare them',
    'experiment': 'run studies with several seeds, and compare the results',
    'make-digits': 'make the embedded data set of digits',
    'prepare-tiny-imagenet': 'check the files of Tiny-ImageNet, and write its image lists',
    'doctor': 'check the installation, and show how to fix problems',
}


def positive(text: str) -> int:
    """The type of an option that is a whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{number} is too small; give 1 or more')
    return number


def score(text: str) -> float:
    """The type of an option that is the score of a detection, from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not a score; give a number from 0 to 1')
    return number


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add `--cfg-options`. Several of them add up, so that those of a message can be pasted."""
    parser.add_argument(
        '--cfg-options',
        action='extend',
        nargs='+',
        metavar='KEY=VALUE',
        help='change keys of the config; write a list as KEY=A,B or KEY="[A,B]"',
    )


def add_run_options(parser: argparse.ArgumentParser, scripts: str) -> None:
    """Add the common options of training and test.

    Args:
        parser: the parser of the tool.
        scripts: names of the scripts that start several processes, for the help.
    """
    parser.add_argument('--data-root', help="folder to read instead of the config's data_root")
    parser.add_argument(
        '--check-images', action='store_true', help='decode every image before the run'
    )
    parser.add_argument(
        '--channels-last',
        action=argparse.BooleanOptionalAction,
        help="torch's channels_last memory format: faster convolutions, equal up to rounding "
        "(default: the config's channels_last)",
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='launcher of several processes (default: %(default)s); '
        f'see {scripts} in {Path(__file__).parent}',
    )
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='set by launchers'
    )


def missing_files(*files: tuple[str, str | Path | None]) -> int:
    """Report the first file of a command that is missing, without an import of torch and mmdet.

    Args:
        files: see `cbam_det.utils.find_files.check_files`.

    Returns:
        The exit status: 2 if a file is missing, else 0.
    """
    exits, find_files = map(_load_without_package, ('exits', 'find_files'))
    return exits.one_line_errors(lambda: find_files.check_files(*files))


def _load_without_package(name: str) -> ModuleType:
    """Load a module of cbam_det.utils without cbam_det itself, which imports torch and mmdet."""
    package = 'cbam_det_utils'
    if package not in sys.modules:
        folder = Path(importlib.util.find_spec('cbam_det').origin).parent / 'utils'
        spec = importlib.util.spec_from_file_location(
            package, folder / '__init__.py', submodule_search_locations=[str(folder)]
        )
        sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f'{package}.{name}')


def hide_gpus_without_operators() -> int:
    """Hide the GPUs from this process if mmcv's operators were compiled for the CPU only.

    Call this before mmengine is imported: it chooses its device at import, and CUDA reads
    CUDA_VISIBLE_DEVICES only once. mmcv would import mmengine, so its file of operators is loaded
    directly.

    Returns:
        The number of GPUs that were hidden.
    """
    spec = importlib.util.find_spec('mmcv')
    if spec is None or spec.origin is None:
        return 0  # the import of cbam_det reports what is missing
    for file in Path(spec.origin).parent.glob('_ext*'):
        try:
            import torch

            extension = importlib.util.spec_from_file_location('mmcv._ext', file)
            operators = importlib.util.module_from_spec(extension)
            extension.loader.exec_module(operators)
        except ImportError:
            return 0  # as above
        if operators.get_compiling_cuda_version() != 'not available':
            return 0
        gpus = torch.cuda.device_count()  # by NVML, which does not initialise CUDA
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
        return gpus
    return 0
