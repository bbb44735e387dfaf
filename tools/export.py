"""Write a detector's backbone, neck and dense head as ONNX or TorchScript, and check the file."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLE = """Number, height and width of the images stay open. mmdet makes boxes of the outputs:
cbam_det.apis.export.detect.

example:
  python tools/export.py configs/retinanet_r50_cbam.py epoch_12.pth --out retinanet.onnx"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLE,
    )
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', type=Path, required=True, help='.onnx, or .pt for TorchScript')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help="that is traced, in pixels; the config's test images' without",
    )
    return parser.parse_args(argv)


def write(args: argparse.Namespace) -> None:
    from cbam_det.apis.export import export
    from cbam_det.apis.inference import Predictor
    from cbam_det.models.costs import input_size
    from cbam_det.utils.config import read_config

    cfg = read_config(args.config)
    gaps = export(Predictor(cfg, args.checkpoint), args.out, tuple(args.size or input_size(cfg)))
    print(f'{args.out}: {len(gaps)} outputs, at most {max(gaps.values()):.0e} from the model')
    print(' '.join(gaps))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det.utils.errors import one_line_errors

    return one_line_errors(lambda: write(args))


if __name__ == '__main__':
    sys.exit(main())
