"""Train a detector: mmdet's own tool, its options and more, behind checks of what it is given."""

import sys

from cbam_det.engine.runner import main

if __name__ == '__main__':
    sys.exit(main('train'))
