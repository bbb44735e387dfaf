"""Pictures: samples of a data set, detections beside ground truth, training curves."""

import argparse
import sys

from mmengine.config import Config, DictAction

from cbam_det.errors import one_line_errors
from cbam_det.results import read_run
from cbam_det.visualization import figures

EXAMPLES = """examples:
  python tools/visualize.py data configs/faster_rcnn_r50_cbam_digits.py
  python tools/visualize.py detections configs/faster_rcnn_r50_cbam_digits.py epoch_5.pth
  python tools/visualize.py curves work_dirs/demo work_dirs/baseline --out curves.svg"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog='example:' + next(line for line in EXAMPLES.split('\n') if f' {name} ' in line),
        )
        made.add_argument('--out', default=f'{name}.png', help='.png, .svg or .jpg (%(default)s)')
        return made

    def config(made: argparse.ArgumentParser, count: int) -> None:
        made.add_argument('config', help='config file')
        made.add_argument('--count', type=int, default=count, help='images (%(default)s)')
        made.add_argument('--data-root', help="folder to read instead of the config's data_root")
        made.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value overrides')

    data = command('data', 'a page of annotated samples')
    config(data, 12)
    data.add_argument('--split', default='train', choices=('train', 'val', 'test'))

    found = command(
        'detections', 'ground truth above, detections below, coloured by right or wrong'
    )
    config(found, 6)
    found.add_argument('checkpoint', help='weights of the config')
    found.add_argument('--score', type=float, default=0.5, help='least score shown (%(default)s)')

    logs = command('curves', 'loss, AP and learning rate of one or several runs')
    logs.add_argument('work_dirs', nargs='+', help='work_dir of a training')
    return parser.parse_args()


def load_config(args: argparse.Namespace) -> Config:
    from cbam_det.cli import read_config
    from cbam_det.preflight import read_weights_only, set_data_root

    read_weights_only()
    cfg = read_config(args.config, args.cfg_options)
    if args.data_root:
        set_data_root(cfg, args.data_root)
    return cfg


def main() -> None:
    args = parse_args()
    figures.check_ending(args.out)
    if args.command == 'curves':
        figure = figures.curves([read_run(work_dir) for work_dir in args.work_dirs])
    else:
        from cbam_det.visualization import detections  # mmdet, which the curves do without

        cfg = load_config(args)
        if args.command == 'data':
            figure = detections.sample_page(cfg, args.split, args.count)
        else:
            figure = detections.detection_page(cfg, args.checkpoint, args.count, args.score)
    print(f'picture written to {figures.save(figure, args.out)}')


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
