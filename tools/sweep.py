"""Put CBAM into every config of the installed mmdet, and count what is built and what is not."""

import argparse
import shlex
import sys
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import track

from cbam_det.errors import one_line_errors
from cbam_det.results import sweep_table, write_record
from cbam_det.sweep import sweep, zoo

EXAMPLES = """examples:
  python tools/sweep.py --only 'retinanet/*'
  python tools/sweep.py --out results/sweep.json"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--only', default='*', help='pattern of configs (%(default)s)')
    parser.add_argument('--out', type=Path, help='JSON file for the record')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    warnings.simplefilter('ignore')  # mmdet's, of its own configs
    names = track(zoo(args.only), 'sweep', console=Console(stderr=True))
    command = shlex.join(['tools/sweep.py', *sys.argv[1:]])
    print(sweep_table(write_record(args.out, command, sweep(names))))


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
