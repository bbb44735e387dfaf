"""The command lines of cbam_det: `python tools/NAME.py`, or `cbam-det NAME` where it is installed.

Each parses its arguments before it imports cbam_det, which imports torch and mmdet.
"""

import argparse
import importlib.util
import os
from pathlib import Path

TOOLS = {
    'train': 'train a detector or a classifier',
    'test': 'evaluate it, and write its metrics',
    'predict': 'detect in pictures and videos: draw the boxes, and list them',
    'visualize': 'pictures and reports: data, detections, curves, attention, Grad-CAM',
    'check-data': 'check a COCO or VOC folder, and write a clean copy of its annotations',
    'places': 'where a CBAM can go in a detector, and the config for it',
    'convert-checkpoint': 'weights of other CBAMs into ours, and back',
    'export': 'ONNX or TorchScript',
    'compare': 'train a detector with and without attention on your data, and compare them',
    'experiment': 'studies: run their rows with seeds, render their tables',
    'make-digits': 'make the embedded data set',
    'prepare-tiny-imagenet': "check Tiny-ImageNet's archive and write its lists",
    'doctor': 'report the environment, and what is wrong with it',
}


def add_run_options(parser: argparse.ArgumentParser, scripts: str) -> None:
    """Add the options that a training and a test share.

    Args:
        parser: of the tool.
        scripts: those that start it in several processes, for the help.
    """
    parser.add_argument('--data-root', help="folder to read instead of the config's data_root")
    parser.add_argument(
        '--check-images', action='store_true', help='decode every image before the run'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='override keys of the config; a list is KEY=A,B or KEY="[A,B]"',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help=f'of several processes (%(default)s); see {scripts}',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='by launchers')


def hide_gpus_without_operators() -> int:
    """Hide the GPUs from this process where mmcv's operators were compiled for the CPU alone.

    To be called before mmengine is imported: that asks CUDA for its devices, which reads
    CUDA_VISIBLE_DEVICES once, and chooses its own device for good. So mmcv's file of operators is
    loaded without mmcv, which imports mmengine.

    Returns:
        How many GPUs were hidden.
    """
    spec = importlib.util.find_spec('mmcv')
    if spec is None or spec.origin is None:
        return 0  # importing cbam_det tells what is missing
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
