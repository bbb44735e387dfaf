"""Open a page in the browser that shows detections, attention and Grad-CAM of your images."""

import argparse
import importlib.util
import signal
import socket
import sys
import threading
from collections.abc import Sequence

EXAMPLES = """examples:
  cbam-det app configs/faster_rcnn_r50_cbam.py epoch_12.pth
  cbam-det app configs/faster_rcnn_r50_cbam.py epoch_12.pth \\
    --against configs/faster_rcnn_r50.py work_dirs/baseline/epoch_12.pth

Ctrl-C ends it. Your images are not kept."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    from cbam_det_tools import missing_files

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    parser.add_argument('config', help='config file, or the name of a shipped one')
    parser.add_argument('checkpoint', help='weights of the detector')
    parser.add_argument(
        '--against',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='another model to compare with, such as the baseline',
    )
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on (default: %(default)s, only this machine); 0.0.0.0 lets '
        'everybody in who can reach this machine',
    )
    parser.add_argument(
        '--port', type=int, default=7860, help='port to listen on (default: %(default)s)'
    )
    args = parser.parse_args(argv)
    pair = (args.config, args.checkpoint)
    # Before torch is imported, which takes long.
    if importlib.util.find_spec('gradio') is None:
        parser.exit(2, "error: the page needs Gradio: pip install 'gradio>=6.31,<7'\n")
    files = zip(('config', 'checkpoint') * 2, (*pair, *(args.against or ())), strict=False)
    if status := missing_files(*files):
        parser.exit(status)
    try:
        socket.create_server((args.host, args.port)).close()
    except (OSError, OverflowError) as error:
        parser.exit(2, f'error: --host {args.host} --port {args.port}: {error}; give another\n')
    return args


def run(args: argparse.Namespace) -> int:
    from cbam_det.apis.inference import Predictor, unique_name
    from cbam_det.utils.config import read_config
    from cbam_det.utils.exits import Stopped
    from cbam_det.visualization.app import serving

    def stop(number: int, frame: object) -> None:
        raise Stopped(f'stopped by {signal.Signals(number).name}', number)

    pairs = [(args.config, args.checkpoint), *([args.against] if args.against else [])]
    configs = [(read_config(config), checkpoint) for config, checkpoint in pairs]
    predictors: list[Predictor] = []
    for config, checkpoint in configs:
        predictor = Predictor(config, checkpoint)
        predictor.name = unique_name(predictor.name, [other.name for other in predictors])
        predictors.append(predictor)
    for number in (signal.SIGTERM, signal.SIGHUP):  # Gradio's own end leaves its files
        signal.signal(number, stop)
    try:
        with serving(predictors, args.host, args.port) as url:
            print(f'{url} shows the page; Ctrl-C ends it', flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: run(args))


if __name__ == '__main__':
    sys.exit(main())
