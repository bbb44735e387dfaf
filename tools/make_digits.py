"""Make the embedded data set, as a COCO folder and a VOC devkit of the same scenes."""

import argparse
import sys

from cbam_det.datasets.digits import Digits, make
from cbam_det.utils.errors import one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog='example: python tools/make_digits.py data/digits --train 1000 --val 200',
    )
    parser.add_argument('root', nargs='?', default='data/digits', help='folder to make')
    for name, text in (
        ('train', 'training images'),
        ('val', 'validation images'),
        ('size', 'side of the images in pixels'),
        ('seed', 'seed of the scenes'),
    ):
        default = getattr(Digits(), name)
        parser.add_argument(f'--{name}', type=int, default=default, help=text)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    made = make(args.root, Digits(args.train, args.val, args.size, args.seed))
    print(f'{args.root}: {"made" if made else "complete already"}')


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
