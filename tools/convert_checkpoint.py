"""Convert CBAM weights of other implementations to ours, and ours between layouts and starts.

IN is a PyTorch checkpoint of one CBAM, of a ResNet with CBAM, or of a detector with our CBAM. OUT
gets its weights and `meta`, but no config that does not fit it, optimizer state, logs or moving
averages. So a new training can start from OUT (load_from, init_cfg), but no training can resume
from it.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

# The same as in cbam_det.checkpoints.formats, which --help must not import.
OURS = 'cbam_det'
FORMATS = (OURS, 'authors', 'pytorchcv', 'timm', 'mmyolo', 'tutorial')
LAYOUTS = ('inserted', 'plugins')
STARTS = ('paper', 'identity')
POOLS = ('avg', 'max', 'lp', 'lse')
ORDERS = ('channel-spatial', 'spatial-channel', 'parallel', 'channel', 'spatial')
EXAMPLES = """examples:
  # weights of the authors' code or of pytorchcv for WithPlugins; load them by
  # backbone.init_cfg=dict(type='Pretrained', checkpoint='ours.pth')
  cbam-det convert-checkpoint theirs.pth ours.pth --drop-classifier
  # a detector from mmdet's plugins= to WithPlugins, and back
  cbam-det convert-checkpoint epoch_12.pth inserted.pth --layout inserted
  cbam-det convert-checkpoint inserted.pth epoch_12_plugins.pth --layout plugins
  # from start='identity' to start='paper' with the same outputs; the config has order and pools
  cbam-det convert-checkpoint epoch_12.pth paper.pth --start paper --config config.py"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('input', metavar='IN', help='checkpoint to read')
    parser.add_argument('output', metavar='OUT', help='checkpoint to write; it must not exist')
    parser.add_argument(
        '--from', dest='source', choices=FORMATS, help='format of IN (default: detected)'
    )
    parser.add_argument(
        '--layout',
        choices=LAYOUTS,
        help="where a ResNet's CBAMs are: inserted by WithPlugins, or mmdet's plugins= "
        '(default: unchanged)',
    )
    parser.add_argument(
        '--start', choices=STARTS, help='convert our weights to this start=, with equal outputs'
    )
    parser.add_argument('--config', help='config of IN, from which order and pools are read')
    parser.add_argument('--order', choices=ORDERS, help='order of the gates, instead of --config')
    parser.add_argument(
        '--pools',
        nargs='+',
        choices=POOLS,
        help='pools of the channel gate, with --order (default: avg max)',
    )
    parser.add_argument(
        '--spatial-pools',
        nargs='+',
        choices=(*POOLS, 'conv'),
        help='pools of the spatial gate, with --order (default: max avg)',
    )
    parser.add_argument('--drop-classifier', action='store_true', help='leave out the classifier')
    parser.add_argument('--verbose', action='store_true', help='list all keys')
    return parser.parse_args(argv)


def find_options(args: argparse.Namespace) -> dict:
    """The CBAM's options from --config, or from --order, --pools and --spatial-pools."""
    from cbam_det.utils.config import CBAMS, kind_of, read_config, walk
    from cbam_det.utils.errors import InputError

    given_options = dict(order=args.order, pools=args.pools, spatial_pools=args.spatial_pools)
    given_options = {option: value for option, value in given_options.items() if value}
    if args.config is None:
        return given_options
    if given_options:
        raise InputError(
            '--config has the order and the pools; leave out --order, --pools and --spatial-pools'
        )
    cbam_options = [
        {option: value for option, value in node.items() if option != 'type'}
        for _, node in walk(read_config(args.config).get('model', {}))
        if kind_of(node) in CBAMS
    ]
    if not cbam_options or any(options != cbam_options[0] for options in cbam_options):
        cbams = 'CBAMs with different options' if cbam_options else 'no CBAM'
        raise InputError(
            f'{args.config}: the model has {cbams}; give --order, --pools and --spatial-pools'
        )
    return cbam_options[0]


def code(value: object) -> str:
    """A value in the syntax of configs, with dict(...)."""
    if isinstance(value, dict):
        return f'dict({", ".join(f"{key}={code(item)}" for key, item in value.items())})'
    return repr(value)


def write(args: argparse.Namespace) -> None:
    from cbam_det.checkpoints.convert import convert, detect_format
    from cbam_det.checkpoints.files import check_free, read_file, write_file
    from cbam_det.utils.errors import InputError

    check_free(args.output)
    options = find_options(args)
    state, meta, left_out = read_file(args.input)
    source = args.source or detect_format(state)
    if args.start and source == OURS and not (args.config or args.order):
        raise InputError(
            '--start needs the order and the pools, which weights do not determine; give '
            '--config, or --order, --pools and --spatial-pools'
        )
    converted = convert(
        state,
        source,
        layout=args.layout,
        start=args.start,
        options=options,
        drop_classifier=args.drop_classifier,
    )
    has_other_keys = converted.state.keys() != state.keys()
    cfg = meta.pop('cfg', None) if has_other_keys else None  # DetInferencer would build its model
    write_file(args.output, converted.state, meta)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if args.verbose:
        table = Table('key', 'new key', 'change')
        for row in converted.rows:
            table.add_row(row[0], row[1], ', '.join(row[2]))
        console.print(table)
    print(f'format of IN: {source}')
    table = Table('change', 'keys')
    for kind, count in Counter(kind for row in converted.rows for kind in row[2]).most_common():
        table.add_row(kind, str(count))
    console.print(table)
    if left_out:
        print(f'left out, so no training can resume from OUT: {", ".join(left_out)}')
    if cfg is not None:
        print("left out, because OUT does not fit it: IN's config; give OUT's config to commands")
    for note in converted.notes:
        print(note)
    for cfg in converted.options:
        places = [place for place, cbam_cfg in converted.cbams.items() if cbam_cfg == cfg]
        suffix = f', {places[0]} to {places[-1]}' if places[0] else ''
        print(f'{len(places)} CBAM{suffix}: {code(cfg)}')
    print(f'written: {Path(args.output)}')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det_tools import missing_files

    if status := missing_files(('config', args.config)):
        return status
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: write(args))


if __name__ == '__main__':
    sys.exit(main())
