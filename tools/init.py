"""Write configs that compare a detector with and without CBAM on your own data.

DATA is a folder in COCO's layout (JSON files of any name, such as exports of Roboflow, CVAT and
Label Studio), in VOC's (XML files, with or without lists of images) or in YOLO's (text labels). It
is not changed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = """examples:
  cbam-det init data/BCCD
  cbam-det init export/ --out cells --detector faster_rcnn_r18 --epochs 12"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('data', metavar='DATA', type=Path, help='folder of images and annotations')
    parser.add_argument(
        '--out', type=Path, metavar='DIR', help='folder to write (default: ./NAME_cbam)'
    )
    parser.add_argument(
        '--layout',
        choices=['coco', 'voc', 'yolo'],
        help='layout to read, if DATA has files of several',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='seed of the split, if DATA has no validation set (default: %(default)s)',
    )
    group = parser.add_argument_group('replace values that are chosen for the data and the machine')
    group.add_argument(
        '--detector',
        metavar='NAME',
        help='retinanet_mobilenetv2, faster_rcnn_r18 (CPU), faster_rcnn_r50, retinanet_r50 (GPU)',
    )
    group.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('LONG', 'SHORT'),
        help='limits of the longer and the shorter side of an image, in pixels',
    )
    group.add_argument('--anchor', type=int, help='side of the smallest anchor in pixels')
    group.add_argument('--batch-size', type=int, help='images per training step')
    group.add_argument('--lr', type=float, help='learning rate')
    group.add_argument('--epochs', type=int, help='number of epochs')
    return parser.parse_args(argv)


def write(args: argparse.Namespace) -> None:
    from cbam_det_tools import hide_gpus_without_operators

    hide_gpus_without_operators()
    from cbam_det.studies.write_project import write_project
    from cbam_det.utils.errors import printable
    from cbam_det.utils.installation import tool_command

    names = ('detector', 'anchor', 'batch_size', 'lr', 'epochs')
    given = {name: getattr(args, name) for name in names}
    given['size'] = tuple(args.size) if args.size else None
    project = write_project(args.data, args.out, args.layout, args.seed, given)
    sets, choices = project.sets, project.choices
    print(printable(f'{sets.root}: {sets.layout}, {len(sets.classes)} classes'))
    for name, content in sets.splits.items():
        images, objects = len(content['images']), len(content['annotations'])
        print(f'  {name}: {images:,} images, {objects:,} objects')
    for note in sets.notes:
        print(printable(f'  {note}'))
    print('chosen:')
    for name, reason in choices.reasons.items():
        print(f'  {name}={getattr(choices, name)}: {reason}')
    print(printable(f'written to {project.folder}; samples.png shows images with their boxes'))
    print('next:')
    for command in filter(None, (project.command, tool_command('compare', project.folder))):
        print(printable(f'  {command}'))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det_tools import missing_files

    if status := missing_files(('data', args.data)):
        return status
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: write(args))


if __name__ == '__main__':
    sys.exit(main())
