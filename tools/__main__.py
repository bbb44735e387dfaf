"""Run a tool by its name: `cbam-det NAME ...` or `python -m cbam_det_tools NAME ...`."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from . import TOOLS

LIST = '\n'.join(f'  {name:24}{text}' for name, text in TOOLS.items())
TEXT = f"""tools (`cbam-det TOOL --help` shows the options of a tool):
{LIST}

example:
  cbam-det train faster_rcnn_r50_cbam_digits --work-dir work_dirs/demo"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a tool by its name; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog='cbam-det',
        description='CBAM attention for object detection with MMDetection 3.x.',
        epilog=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('name', choices=TOOLS, metavar='TOOL', help='one of the tools below')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help='arguments of the tool')
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        return 2
    args = parser.parse_args(argv)
    sys.argv = [f'cbam-det {args.name}', *args.arguments]  # for usage messages and records
    tool = importlib.import_module(f'{__package__}.{args.name.replace("-", "_")}')
    return tool.main(args.arguments)


if __name__ == '__main__':
    sys.exit(main())
