"""List the places of a detector that can take a CBAM, and print the config for a choice."""

import argparse
import sys

from mmengine.config import DictAction
from rich.console import Console
from rich.table import Table

from cbam_det.models.places import find_places, fragment
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError, one_line_errors

EXAMPLES = """examples:
  python tools/places.py configs/retinanet_r18.py --only 'backbone:layer*.bn2'
  python tools/places.py configs/retinanet_r18.py --insert 'backbone:layer*.*.bn2'"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--only', default='*', help='HOST:NAME pattern of the rows (%(default)s)')
    parser.add_argument(
        '--insert', action='append', help='HOST:PATTERN; print the config that inserts there'
    )
    parser.add_argument('--size', type=int, default=256, help='side of the image (%(default)s)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value overrides')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = read_config(args.config, args.cfg_options)
    if args.insert:
        if len(args.insert) > 1:
            raise InputError('one --insert at a time; after= takes a list of patterns in a config')
        host, colon, after = args.insert[0].partition(':')
        if not colon:
            raise InputError(f'--insert {args.insert[0]} names no host; write HOST:PATTERN')
        print(fragment(cfg, host, after))
        return
    table = Table('host', 'after', 'module', 'C x H x W', '+ parameters', '+ multiply-adds')
    for place in find_places(cfg, args.size, args.only):
        table.add_row(
            place.host,
            place.name,
            place.kind,
            ' x '.join(map(str, place.shape)),
            f'{place.parameters:,}',
            f'{place.multiply_adds:,}',
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
