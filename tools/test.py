"""Evaluate a detector: mmdet's own tool, its options and more, with metrics written as JSON."""

import sys

from cbam_det.engine.runner import main

if __name__ == '__main__':
    sys.exit(main('test'))
