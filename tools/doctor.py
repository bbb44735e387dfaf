"""Check the installation: show versions and hardware, and how to fix problems.

The exit status is 1 if training cannot work.
"""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cbam_det.utils.environment import Problem

EXAMPLE = 'example: cbam-det doctor'

DATA_SETS = {
    'COCO 2017': 'data/coco/annotations/instances_train2017.json',
    'VOC 2007': 'data/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt',
    'VOC 2012': 'data/VOCdevkit/VOC2012/ImageSets/Main/trainval.txt',
    'embedded digits': 'data/digits/annotations/instances_train2017.json',
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE).parse_args(argv)


def check_plugin() -> 'Problem | None':
    """Check that mmdet builds a ResNet with CBAM in each block; returns the problem, if any."""
    from cbam_det.models.compat import import_mmdet
    from cbam_det.utils.environment import Problem

    try:
        from mmengine.registry import MODELS, DefaultScope

        from cbam_det.models.layers import CBAM

        with DefaultScope.overwrite_default_scope('mmdet'):
            import_mmdet()
            plugins = [dict(cfg=dict(type='CBAM'), position='after_conv3')]
            net = MODELS.build(
                dict(type='mmdet.ResNet', depth=50, base_channels=16, plugins=plugins)
            )
        count = sum(isinstance(module, CBAM) for module in net.modules())
        if count != 16:
            return Problem(
                f"only {count} of ResNet-50's 16 blocks have a CBAM", 'report this as a bug'
            )
    except Exception as error:
        return Problem(
            f'mmdet cannot build a ResNet with CBAM ({type(error).__name__}: {error})',
            'run pip check, and fix the problems that it lists',
        )
    return None


def report() -> int:
    """Print the report; returns 0 if training can work, else 1."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    import cbam_det
    from cbam_det.utils.environment import (
        LIBRARIES,
        check_checkpoints,
        check_device,
        check_libraries,
        check_operators,
    )

    console = Console(highlight=False, soft_wrap=True)

    rows = [
        ('cbam_det', f'{cbam_det.__version__}, {Path(cbam_det.__file__).parent}'),
        ('python', f'{platform.python_version()}, {sys.executable}'),
        ('machine', f'{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores'),
    ]
    for library in LIBRARIES:
        source = ', '.join(library.distributions)
        rows.append((library.module, f'{library.version} ({source})' if source else '-'))

    problems = check_libraries()
    if not problems:
        for name, success, check in (
            ('operators', 'work', check_operators),
            ('plugin', "CBAM is registered in MMEngine's root MODELS", check_plugin),
            ('checkpoints', 'can be written and read', check_checkpoints),
        ):
            problem = check()
            rows.append((name, 'see below' if problem else success))
            problems += [problem] if problem else []
    if not problems:
        rows.append(('device', ': '.join(check_device())))
        import torch

        weights = Path(torch.hub.get_dir()) / 'checkpoints'
        cached = sorted(path.name for path in weights.glob('*resnet*.pth'))
        rows.append(('ImageNet weights', ', '.join(cached) or f'none in {weights} yet'))
    for name, file in DATA_SETS.items():
        state = 'found' if Path(file).is_file() else 'not found (only needed by its configs)'
        rows.append((name, f'{state}: {file}'))

    table = Table(show_header=False, box=None)
    for row in rows:
        table.add_row(*map(Text, row))  # which may have brackets
    console.print(table)
    for problem in problems:
        console.print(f'\nPROBLEM  {problem}', markup=False)
    console.print('\nTraining cannot work here.' if problems else '\nReady to train.')
    return 1 if problems else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parse_args(argv)
    try:
        from cbam_det.utils.exits import one_line_errors
    except Exception as error:  # e.g. a file with the name of a standard module
        print(f'PROBLEM  cbam_det cannot be imported ({type(error).__name__}: {error})')
        return 1
    return one_line_errors(report)


if __name__ == '__main__':
    sys.exit(main())
