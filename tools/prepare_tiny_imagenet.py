"""Check the unpacked archive of Tiny-ImageNet, and write the image lists for mmpretrain."""

import argparse
import sys
from collections.abc import Sequence


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='example: cbam-det prepare-tiny-imagenet data/tiny-imagenet-200',
    )
    parser.add_argument('root', help='the folder tiny-imagenet-200')
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace) -> None:
    from cbam_det.datasets.tiny_imagenet import write_lists

    counts = write_lists(args.root)
    summary = ', '.join(
        f'meta/{split}.txt with {count:,} images' for split, count in counts.items()
    )
    print(f'{args.root}: {summary}')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: prepare(args))


if __name__ == '__main__':
    sys.exit(main())
