"""List the places of a detector where a CBAM can be inserted, or print the config to insert one."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

EXAMPLES = """examples:
  cbam-det places configs/retinanet_r18.py --only 'backbone:layer*.bn2'
  cbam-det places configs/retinanet_r18.py --insert 'backbone:layer*.*.bn2'"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    from cbam_det_tools import add_cfg_options, positive

    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file, or mmdet::FOLDER/CONFIG.py')
    parser.add_argument(
        '--only',
        default='*',
        help='list only places that match COMPONENT:NAME (default: %(default)s)',
    )
    parser.add_argument(
        '--insert', action='append', help='print the config that inserts CBAMs at COMPONENT:PATTERN'
    )
    parser.add_argument(
        '--size',
        type=positive,
        default=256,
        help='height and width of the image (default: %(default)s)',
    )
    add_cfg_options(parser)
    return parser.parse_args(argv)


def print_places(args: argparse.Namespace) -> None:
    from cbam_det.models.places import find_places, fragment, total_cost
    from cbam_det.utils.config import read_config
    from cbam_det.utils.errors import InputError
    from cbam_det.utils.options import parse_options

    cfg = read_config(args.config, parse_options(args.cfg_options))
    if args.insert:
        if len(args.insert) > 1:
            raise InputError(
                '--insert can be given only once; in a config, after= takes a list of patterns'
            )
        component, colon, after = args.insert[0].partition(':')
        if not colon:
            raise InputError(
                f'--insert {args.insert[0]} has no component; write COMPONENT:PATTERN, such as '
                "'backbone:layer*.*.bn2'"
            )
        print(fragment(cfg, component, after))
        return
    head = ('component', 'after', 'module', 'C x H x W', 'maps', '+ parameters', '+ multiply-adds')
    table = Table(*head)
    places = find_places(cfg, args.size, args.only)
    for place in places:
        table.add_row(
            place.component,
            place.name,
            place.kind,
            ' x '.join(map(str, place.shape)),
            f'{place.maps:,}',
            f'{place.parameters:,}',
            f'{place.multiply_adds:,}',
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    image = f'{args.size}x{args.size} pixels'
    print(f'a CBAM at each of these places: {total_cost(places)}, for an image of {image}')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det_tools import missing_files

    if status := missing_files(('config', args.config)):
        return status
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: print_places(args))


if __name__ == '__main__':
    sys.exit(main())
