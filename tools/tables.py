"""Fill the tables of the READMEs from the records in results/, or check that they match."""

import argparse
import sys
from pathlib import Path

from cbam_det.errors import InputError, one_line_errors
from cbam_det.results import fill_tables

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='example: python tools/tables.py --check'
    )
    parser.add_argument('--check', action='store_true', help='write nothing; fail on a difference')
    args = parser.parse_args()
    if not (ROOT / 'README.md').is_file():
        raise InputError(f'{ROOT} is no checkout of cbam_det, whose tables these are')
    for readme in (ROOT / 'README.md', ROOT / 'experiments' / 'README.md'):
        text = readme.read_text(encoding='utf-8')
        filled = fill_tables(text, ROOT / 'results')
        if args.check and filled != text:
            raise InputError(f'{readme} differs from results/; run python tools/tables.py')
        if not args.check:
            readme.write_text(filled, encoding='utf-8')


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
