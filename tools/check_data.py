"""Check a COCO or VOC folder: every image decoded, every box, the splits against each other."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cbam_det.datasets.validation.folder import Split

EXAMPLES = """examples:
  python tools/check_data.py data/coco
  python tools/check_data.py data/VOCdevkit --fix

Exit status 1 where a fault would hurt a training or its scores and was not mended."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=Path, help="a folder in COCO's or VOC's layout")
    parser.add_argument('--images', type=Path, help="COCO's images, where they are not found")
    parser.add_argument(
        '--fix',
        action='store_true',
        help='write a clean annotation file beside each with faults; no file is changed',
    )
    parser.add_argument('--first', type=int, default=3, help='examples of a fault (%(default)s)')
    return parser.parse_args(argv)


def print_tables(splits: list['Split'], first: int, console: Console) -> None:
    from cbam_det.datasets.validation.content import remedy_of

    sets = Table('split', 'images', 'objects', 'classes', 'faults', 'of which hurt')
    kinds = Table('split', 'fault', 'hurts', 'count', 'first, and the remedy', show_lines=True)
    for split in splits:
        content = split.content
        hurting = sum(fault.hurts for fault in content.faults)
        counts = (len(content.images), content.objects, len(content.classes), len(content.faults))
        sets.add_row(split.name, *(f'{count:,}' for count in (*counts, hurting)))
        groups = {(fault.kind, fault.hurts): [] for fault in content.faults}
        for fault in content.faults:
            groups[fault.kind, fault.hurts].append(fault)
        for (kind, hurts), faults in groups.items():
            examples = '\n'.join([*map(str, faults[:first]), f'=> {remedy_of(faults[0])}'])
            cells = split.name, kind, 'yes' if hurts else 'no', f'{len(faults):,}', examples
            kinds.add_row(
                *(Text(cell.encode('utf-8', 'backslashreplace').decode()) for cell in cells)
            )
    console.print(sets)
    if kinds.row_count:
        console.print(kinds)
    for split in splits:
        for note in split.notes:
            console.print(f'{split.name}: {note}', markup=False)


def check(args: argparse.Namespace) -> int:
    from cbam_det.datasets.validation.clean import clean, config_options, write_clean
    from cbam_det.datasets.validation.content import FIX, remedy_of
    from cbam_det.datasets.validation.folder import examine

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    splits = examine(args.folder, args.images)
    print_tables(splits, args.first, console)
    unresolved = False
    for split in splits:
        hurting = {fault.kind for fault in split.content.faults if fault.hurts}
        fixable = any(FIX in remedy_of(fault) for fault in split.content.faults)
        if args.fix and (hurting or fixable):
            cleaned = clean(split)
            write_clean(cleaned.files)
            for path in list(cleaned.files)[:1]:
                others = f' and {len(cleaned.files) - 1:,} more' if len(cleaned.files) > 1 else ''
                console.print(
                    f'{split.name}: written {path}{others}, without {cleaned.images:,} images and '
                    f'{cleaned.objects:,} objects; use it:',
                    soft_wrap=True,
                )
                console.print(f'  {config_options(split, cleaned.options)}', soft_wrap=True)
            hurting &= {'same image in two splits'}
        unresolved = unresolved or bool(hurting)
    return int(unresolved)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det.utils.errors import one_line_errors

    return one_line_errors(lambda: check(args))


if __name__ == '__main__':
    sys.exit(main())
