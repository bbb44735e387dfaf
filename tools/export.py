"""Export backbone, neck and dense head of a detector as ONNX or TorchScript, and check the file."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLE = """The file accepts any number, height and width of images; cbam_det.apis.export.detect
converts its outputs to boxes.

example:
  cbam-det export configs/retinanet_r50_cbam.py epoch_12.pth --out retinanet.onnx"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    from cbam_det_tools import positive

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLE,
    )
    parser.add_argument('config', help='config file, or the name of a shipped one')
    parser.add_argument('checkpoint', help='weights of the detector')
    parser.add_argument(
        '--out', type=Path, required=True, help='file to write, .onnx, or .pt for TorchScript'
    )
    parser.add_argument(
        '--size',
        type=positive,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='image size for tracing, in pixels (default: test size of the config)',
    )
    return parser.parse_args(argv)


def write(args: argparse.Namespace) -> None:
    from cbam_det.apis.export import export
    from cbam_det.apis.inference import Predictor
    from cbam_det.models.costs import input_size
    from cbam_det.utils.config import read_config

    cfg = read_config(args.config)
    gaps = export(Predictor(cfg, args.checkpoint), args.out, tuple(args.size or input_size(cfg)))
    print(
        f'{args.out}: {len(gaps)} outputs, which differ from the model by at most '
        f'{max(gaps.values()):.0e} (relative)'
    )
    print(' '.join(gaps))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det_tools import missing_files

    if status := missing_files(('config', args.config), ('checkpoint', args.checkpoint)):
        return status
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: write(args))


if __name__ == '__main__':
    sys.exit(main())
