"""Detect objects in images and videos; draw the boxes, and list them as COCO results and CSV."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = """examples:
  cbam-det predict image.jpg configs/faster_rcnn_r50_cbam.py epoch_12.pth
  cbam-det predict holiday/ configs/faster_rcnn_r50_cbam.py epoch_12.pth --attention
  cbam-det predict street.mp4 configs/faster_rcnn_r50_cbam.py epoch_12.pth --out street

INPUT is an image, a video, a folder, a pattern with * in quotes, or a .txt file with one path per
line. An interrupted command continues where it stopped. The exit status is 1 if a file cannot be
read."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    from cbam_det_tools import score

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    parser.add_argument('input', metavar='INPUT', help='images or videos')
    parser.add_argument('config', help='config file, or the name of a shipped one')
    parser.add_argument('checkpoint', help='weights of the detector')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('predictions'),
        help='folder for the results (default: %(default)s)',
    )
    parser.add_argument(
        '--score',
        type=score,
        default=0.3,
        help='minimum score of a detection (default: %(default)s)',
    )
    parser.add_argument(
        '--attention', action='store_true', help='draw the attention map next to each image'
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=1,
        help='frames of a video per batch (default: %(default)s)',
    )
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        parser.error(f'--batch-size {args.batch_size} must be at least 1')
    return args


def run(args: argparse.Namespace) -> int:
    from cbam_det.apis.inference import Predictor
    from cbam_det.utils.config import read_config
    from cbam_det.visualization.predict import predict
    from cbam_det.visualization.predict_files import find_inputs

    find_inputs(args.input)  # before the model is built
    predictor = Predictor(read_config(args.config), args.checkpoint)
    summary = predict(predictor, args.input, args.out, args.score, args.attention, args.batch_size)
    print(
        f'{args.out}: {summary.detections:,} detections in {summary.images:,} images or frames; '
        'drawn/, results.json, coco.json, detections.csv'
    )
    if summary.images and not summary.detections:
        print(
            f'no detection has a score of {args.score:g} or more; give a lower --score, and '
            'another folder with --out'
        )
    return 1 if summary.unreadable else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det_tools import missing_files

    files = [('source', args.input), ('config', args.config), ('checkpoint', args.checkpoint)]
    if status := missing_files(*files):
        return status
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: run(args))


if __name__ == '__main__':
    sys.exit(main())
