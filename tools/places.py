"""List the places of a detector that can take a CBAM, and print the config for a choice."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

EXAMPLES = """examples:
  python tools/places.py configs/retinanet_r18.py --only 'backbone:layer*.bn2'
  python tools/places.py configs/retinanet_r18.py --insert 'backbone:layer*.*.bn2'"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file, or mmdet::FOLDER/CONFIG.py')
    parser.add_argument('--only', default='*', help='HOST:NAME pattern of the rows (%(default)s)')
    parser.add_argument(
        '--insert', action='append', help='HOST:PATTERN; print the config that inserts there'
    )
    parser.add_argument('--size', type=int, default=256, help='side of the image (%(default)s)')
    parser.add_argument(
        '--cfg-options',
        action='extend',
        nargs='+',
        metavar='KEY=VALUE',
        help='override keys of the config',
    )
    return parser.parse_args(argv)


def print_places(args: argparse.Namespace) -> None:
    from cbam_det.models.places import find_places, fragment, summed_up
    from cbam_det.utils.config import read_config
    from cbam_det.utils.errors import InputError
    from cbam_det.utils.options import parse_options

    cfg = read_config(args.config, parse_options(args.cfg_options))
    if args.insert:
        if len(args.insert) > 1:
            raise InputError('one --insert at a time; after= takes a list of patterns in a config')
        host, colon, after = args.insert[0].partition(':')
        if not colon:
            raise InputError(f'--insert {args.insert[0]} names no host; write HOST:PATTERN')
        print(fragment(cfg, host, after))
        return
    head = ('host', 'after', 'module', 'C x H x W', 'maps', '+ parameters', '+ multiply-adds')
    table = Table(*head)
    found = find_places(cfg, args.size, args.only)
    for place in found:
        table.add_row(
            place.host,
            place.name,
            place.kind,
            ' x '.join(map(str, place.shape)),
            f'{place.maps:,}',
            f'{place.parameters:,}',
            f'{place.multiply_adds:,}',
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(f'one at each of these places: {summed_up(found)}')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det.utils.errors import one_line_errors

    return one_line_errors(lambda: print_places(args))


if __name__ == '__main__':
    sys.exit(main())
