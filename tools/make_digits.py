"""Make the embedded data set of digits, in COCO's and in VOC's layout."""

import argparse
import sys
from collections.abc import Sequence


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog='example: cbam-det make-digits data/digits --train 1000 --val 200',
    )
    parser.add_argument('root', nargs='?', default='data/digits', help='folder for the data set')
    for name, default, text in (
        ('train', 1000, 'number of training images'),
        ('val', 200, 'number of validation images'),
        ('size', 192, 'height and width of the images in pixels'),
        ('seed', 0, 'random seed'),
    ):
        parser.add_argument(f'--{name}', type=int, default=default, help=text)
    return parser.parse_args(argv)


def write(args: argparse.Namespace) -> None:
    from cbam_det.datasets.digits import Digits, make

    created = make(args.root, Digits(args.train, args.val, args.size, args.seed))
    print(f'{args.root}: {"made" if created else "exists already"}')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: write(args))


if __name__ == '__main__':
    sys.exit(main())
