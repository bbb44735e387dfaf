"""Check Tiny-ImageNet's unpacked archive and write the image lists that mmpretrain reads."""

import argparse
import sys

from cbam_det.datasets.tiny_imagenet import write_lists
from cbam_det.utils.errors import one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='example: python tools/prepare_tiny_imagenet.py data/tiny-imagenet-200',
    )
    parser.add_argument('root', help='the folder tiny-imagenet-200')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    counts = write_lists(args.root)
    said = ', '.join(f'meta/{split}.txt with {count:,} images' for split, count in counts.items())
    print(f'{args.root}: {said}')


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
