"""Check a COCO or VOC folder, or the data of a config: decode every image, check every box, and
compare the splits.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cbam_det.datasets.validation.splits import AnnotatedSplit
    from cbam_det.utils.run_config import RunConfig

EXAMPLES = """examples:
  cbam-det check-data data/coco
  cbam-det check-data data/VOCdevkit --fix
  cbam-det check-data export/_annotations.coco.json --images export/images
  cbam-det check-data mine.py --data-root /data/mine

A fault is harmful if it would stop a run, be learned by the model or make scores wrong. The exit
status is 1 if a harmful fault is left."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    from cbam_det_tools import add_cfg_options, positive

    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'data',
        help="a folder in COCO's or VOC's layout, a COCO file, or a config of other folders",
    )
    parser.add_argument(
        '--images', type=Path, help="folder of a COCO file's images, if they are not found"
    )
    parser.add_argument(
        '--fix',
        action='store_true',
        help='write a clean annotation file next to each one with faults; no file is changed',
    )
    parser.add_argument('--data-root', help="folder to read instead of the config's data_root")
    add_cfg_options(parser)
    parser.add_argument(
        '--first',
        type=positive,
        default=3,
        help='number of examples per fault (default: %(default)s)',
    )
    return parser.parse_args(argv)


def print_tables(
    splits: list['AnnotatedSplit'], first: int, offer_fix: bool, console: Console
) -> None:
    from cbam_det.datasets.validation.content import fixable, remedy_of, uncorrectable
    from cbam_det.utils.errors import printable

    sets = Table('split', 'images', 'objects', 'classes', 'faults', 'harmful')
    kinds = Table('split', 'fault', 'harmful', 'count', 'examples and remedy', show_lines=True)
    for split in splits:
        content = split.content
        harmful_count = sum(fault.harmful for fault in content.faults)
        counts = (len(content.images), content.objects, len(content.classes), len(content.faults))
        name = Text(printable(split.name))
        sets.add_row(name, *(f'{count:,}' for count in (*counts, harmful_count)))
        groups = {(fault.kind, fault.harmful): [] for fault in content.faults}
        for fault in content.faults:
            groups[fault.kind, fault.harmful].append(fault)
        for (kind, is_harmful), faults in groups.items():
            remedy = remedy_of(faults[0], of_config=bool(split.places))
            examples = '\n'.join([*map(str, faults[:first]), f'=> {remedy}'])
            harmful = 'yes' if is_harmful else 'no'
            kinds.add_row(name, kind, harmful, f'{len(faults):,}', Text(printable(examples)))
    console.print(sets)
    if kinds.row_count:
        console.print(kinds)
    to_fix = [split for split in splits if uncorrectable(split.content) is None]
    if offer_fix and any(fixable(fault) for split in to_fix for fault in split.content.faults):
        console.print('Add --fix to this command to write clean annotation files.')
    for split in splits:
        for note in split.notes:
            console.print(printable(f'{split.name}: {note}'), markup=False)


def is_coco_file(path: Path) -> bool:
    """Whether a file is JSON, but not a config in that format."""
    is_json = path.suffix.lower() == '.json' and path.is_file()
    return is_json and b'_dataloader"' not in path.read_bytes()


def config_of(args: argparse.Namespace) -> 'RunConfig | None':
    """The config to check; None if a folder is checked."""
    from cbam_det.datasets.validation.data_root import set_data_root
    from cbam_det.utils.config import find_config, read_config
    from cbam_det.utils.errors import InputError
    from cbam_det.utils.options import parse_options
    from cbam_det.utils.run_config import RunConfig, Settings

    options = dict(images=args.images, data_root=args.data_root, cfg_options=args.cfg_options)
    given = [f'--{name.replace("_", "-")}' for name, value in options.items() if value]
    try:
        has_data = Path(args.data).is_dir() or is_coco_file(Path(args.data))
        path = '' if has_data else find_config(args.data)
    except InputError:
        if Path(args.data).suffix == '.py':
            raise
        path = ''
    unused = [option for option in given if (option == '--images') == bool(path)]
    if unused:
        owner = 'folders' if path else 'configs'
        other = 'a config' if path else 'not a config'
        raise InputError(
            f'{unused[0]} is only for {owner}, but {args.data} is {other}; leave it out'
        )
    if not path:
        return None
    cfg = read_config(path, parse_options(args.cfg_options))
    if root := args.data_root or Settings.from_cfg(cfg).data_root:
        set_data_root(cfg, root)
    return RunConfig.from_cfg(cfg)


def splits_of(args: argparse.Namespace, run: 'RunConfig | None') -> list['AnnotatedSplit']:
    from cbam_det.datasets.validation.config_splits import config_splits
    from cbam_det.datasets.validation.examination import examine_splits
    from cbam_det.datasets.validation.folder import examine
    from cbam_det.utils.errors import InputError

    if run is None:
        return examine(Path(args.data), args.images)
    splits = config_splits(run)
    if not splits:
        raise InputError(
            f'{run.filename} has no COCO or VOC data set on a local disk; give a config that has '
            'one, or a folder'
        )
    description = f'decoding the images of {args.data}'
    return examine_splits(splits, description, allow_shared=run.settings.allow_shared_images)


def check(args: argparse.Namespace) -> int:
    from cbam_det.datasets.validation.config import check_data
    from cbam_det.utils.errors import InputError, print_stderr

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    run = config_of(args)
    splits = splits_of(args, run)
    print_tables(splits, args.first, not args.fix, console)
    unresolved, errors = False, []
    for split in splits:
        unfixed = {fault.kind for fault in split.content.faults if fault.harmful}
        if args.fix:
            try:
                if fix(split, console):
                    unfixed &= {'same image in two splits'}
            except InputError as error:
                errors.append(error)
        unresolved = unresolved or bool(unfixed)
    if errors:
        raise InputError('; '.join(map(str, errors)))
    has_harmful = any(fault.harmful for split in splits for fault in split.content.faults)
    # After a fix the config does not read the clean files yet, so it is not checked.
    if run is not None and not (args.fix and has_harmful):
        try:
            check_data(run, ('train', 'val', 'test'), examined=splits)
        except InputError as error:
            if not has_harmful:
                raise
            print_stderr(f'error: {error}')
    return int(unresolved)


def fix(split: 'AnnotatedSplit', console: Console) -> bool:
    """Write clean files for a split if it has faults; return whether it has."""
    from cbam_det.datasets.validation.clean import clean, config_options, write_clean
    from cbam_det.datasets.validation.content import fixable
    from cbam_det.utils.errors import printable

    if not any(fault.harmful or fixable(fault) for fault in split.content.faults):
        return False
    cleaned = clean(split)
    write_clean(cleaned.files)
    for path in list(cleaned.files)[:1]:
        others = f' and {len(cleaned.files) - 1:,} more' if len(cleaned.files) > 1 else ''
        line = (
            f'{split.name}: wrote {path}{others}, without {cleaned.images:,} images and '
            f'{cleaned.objects:,} objects; to use it:\n  {config_options(split, cleaned.options)}'
        )
        console.print(printable(line), soft_wrap=True, markup=False)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det_tools import missing_files

    is_config = Path(args.data).suffix == '.py'
    if is_config and (status := missing_files(('config', args.data))):
        return status
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: check(args))


if __name__ == '__main__':
    sys.exit(main())
