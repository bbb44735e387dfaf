"""Draw data, detections, training curves, precision, attention and Grad-CAM; write reports."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mmengine.config import Config

    from cbam_det.apis.inference import Predictor
    from cbam_det.visualization.gradcam import Explainer

EXAMPLES = """examples:
  cbam-det visualize data configs/faster_rcnn_r50_cbam_digits.py
  cbam-det visualize detections configs/faster_rcnn_r50_cbam_digits.py epoch_5.pth
  cbam-det visualize curves work_dirs/demo work_dirs/baseline --out curves.svg
  cbam-det visualize pr CONFIG CHECKPOINT --against CONFIG2 CHECKPOINT2
  cbam-det visualize attention image.jpg CONFIG CHECKPOINT
  cbam-det visualize gradcam image.jpg CONFIG CHECKPOINT --against CONFIG2 CHECKPOINT2
  cbam-det visualize focus CONFIG CHECKPOINT --against CONFIG2 CHECKPOINT2
  cbam-det visualize report work_dirs/demo --against work_dirs/baseline"""
METHODS = [
    'hirescam',
    'gradcam',
    'gradcam++',
    'xgradcam',
    'layercam',
    'elementwise',
    'eigengradcam',
]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)

    def add(name: str, text: str, kind: str = '.png, .svg or .jpg') -> argparse.ArgumentParser:
        example = next(line for line in EXAMPLES.split('\n') if f'visualize {name} ' in line)
        subparser = commands.add_parser(
            name, help=text, description=text, epilog=f'example:{example}'
        )
        ending = kind.split(',')[0]
        subparser.add_argument(
            '--out',
            default=f'{name}{ending}',
            help=f'file to write, {kind} (default: %(default)s)',
        )
        return subparser

    subparser = add('data', 'draw annotated images of a data set')
    add_config(subparser, weights=False)
    add_count(subparser, 12)
    add_split(subparser, 'train')

    subparser = add('detections', 'draw ground truth and detections: correct, false and missed')
    add_config(subparser)
    add_count(subparser, 6)
    add_score(subparser)

    subparser = add('curves', 'plot loss, AP and learning rate of one or more runs')
    subparser.add_argument('work_dirs', nargs='+', help='work_dir of a training')

    subparser = add('pr', 'plot precision-recall curves, the mean and each class')
    add_config(subparser)
    add_against(subparser)
    add_split(subparser, 'test')

    subparser = add('attention', 'draw the spatial and channel weights of each CBAM for an image')
    subparser.add_argument('image', help='JPEG or PNG file')
    add_config(subparser, needed=False)
    subparser.add_argument(
        '--layer',
        action='append',
        help='only these CBAMs, such as layer4 or layer*.0.*; can be given several times',
    )

    subparser = add(
        'gradcam', 'draw which parts of an image raise the score of a detection or class (Grad-CAM)'
    )
    subparser.add_argument('image', help='JPEG or PNG file')
    add_config(subparser)
    add_against(subparser)
    add_cam(subparser)
    add_count(subparser, 4, 'maximum number of detections')
    add_score(subparser)
    subparser.add_argument('--class', dest='class_name', help='only this class, by name or number')
    subparser.add_argument(
        '--norm-in-bbox',
        action='store_true',
        help='show heat only inside the box, scaled to 0 to 1',
    )

    subparser = add(
        'focus', "measure the share of Grad-CAM's heat inside objects, over a data set", '.json'
    )
    add_config(subparser)
    add_against(subparser)
    add_cam(subparser)
    add_count(subparser, 50)
    add_split(subparser, 'val')
    add_score(subparser)

    subparser = add('report', 'write a report of a run as one HTML file', '.html')
    subparser.add_argument('work_dir', help='work_dir of a training (and of its test)')
    subparser.add_argument('--against', metavar='WORK_DIR', help='work_dir of the baseline')
    subparser.add_argument(
        '--image', help='image on which to show attention (default: the first test image)'
    )
    subparser.add_argument('--data-root', help="folder to read instead of the config's data_root")
    return parser.parse_args(argv)


def add_config(parser: argparse.ArgumentParser, weights: bool = True, needed: bool = True) -> None:
    from cbam_det_tools import add_cfg_options

    parser.add_argument('config', help='config file, or the name of a shipped one')
    if weights:
        text = 'weights of the model' + ('' if needed else ' (default: its initial weights)')
        parser.add_argument('checkpoint', nargs=None if needed else '?', help=text)
    parser.add_argument('--data-root', help="folder to read instead of the config's data_root")
    add_cfg_options(parser)


def add_count(
    parser: argparse.ArgumentParser, default: int, text: str = 'number of images'
) -> None:
    from cbam_det_tools import positive

    parser.add_argument(
        '--count', type=positive, default=default, help=f'{text} (default: %(default)s)'
    )


def add_score(parser: argparse.ArgumentParser) -> None:
    from cbam_det_tools import score

    parser.add_argument(
        '--score',
        type=score,
        default=0.3,
        help='minimum score of a detection (default: %(default)s)',
    )


def add_split(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        '--split',
        default=default,
        choices=('train', 'val', 'test'),
        help='which data to use (default: %(default)s)',
    )


def add_against(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--against',
        nargs=2,
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='another model to compare with; can be given several times',
    )


def add_cam(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--layer',
        action='append',
        help='layer to explain, such as backbone.layer3; several are averaged (default: the '
        "deepest output of the backbone at which no model's heat is zero)",
    )
    parser.add_argument(
        '--method',
        default='hirescam',
        choices=METHODS,
        help='Grad-CAM variant (default: %(default)s)',
    )
    parser.add_argument(
        '--target',
        default='score',
        choices=('score', 'box'),
        help="explain a detection's score, or the size of its box (default: %(default)s)",
    )


def load_config(name: str, options: list[str] | None, data_root: str | None) -> 'Config':
    from cbam_det.checkpoints.files import read_weights_only
    from cbam_det.datasets.validation.data_root import set_data_root
    from cbam_det.utils.config import read_config
    from cbam_det.utils.options import parse_options

    read_weights_only()
    cfg = read_config(name, parse_options(options))
    if data_root:
        set_data_root(cfg, data_root)
    return cfg


def predictors(args: argparse.Namespace) -> list['Predictor']:
    from cbam_det.apis.inference import Predictor

    first = (args.config, args.checkpoint, args.cfg_options)
    others = [(config, checkpoint, None) for config, checkpoint in getattr(args, 'against', ())]
    return [
        Predictor(load_config(config, options, args.data_root), checkpoint)
        for config, checkpoint, options in (first, *others)
    ]


def explainers(args: argparse.Namespace) -> list['Explainer']:
    from cbam_det.visualization.gradcam import Explainer

    return [
        Explainer(predictor, args.layer, args.method, args.target) for predictor in predictors(args)
    ]


def draw_figure(args: argparse.Namespace) -> 'Figure':
    """Draw the figure of a command."""
    if args.command == 'curves':
        from cbam_det.visualization.curves import curves, read_log

        return curves([read_log(work_dir) for work_dir in args.work_dirs])
    if args.command == 'data':
        from cbam_det.visualization.detections import sample_page

        cfg = load_config(args.config, args.cfg_options, args.data_root)
        return sample_page(cfg, args.split, args.count)
    if args.command == 'detections':
        from cbam_det.visualization.detections import detection_page

        return detection_page(predictors(args)[0], args.count, args.score)
    if args.command == 'pr':
        from cbam_det.visualization.precision import precision_page

        return precision_page(predictors(args), args.split)
    from cbam_det.apis.inference import read_image

    read_image(args.image)  # before the models are built
    if args.command == 'attention':
        from cbam_det.visualization.attention import attention_page

        return attention_page(predictors(args)[0], args.image, args.layer)
    from cbam_det.visualization.gradcam import gradcam_page

    return gradcam_page(
        args.image,
        explainers(args),
        score=args.score,
        class_name=args.class_name,
        count=args.count,
        norm_in_box=args.norm_in_bbox,
    )


def check_out(out: str, ending: str) -> Path:
    from cbam_det.utils.errors import InputError
    from cbam_det.utils.files import check_output_file

    if Path(out).suffix != ending:
        raise InputError(f'--out {out}: this command writes {ending}; end the name in {ending}')
    check_output_file(out)
    return Path(out)


def write_output(args: argparse.Namespace) -> None:
    if args.command == 'focus':
        from cbam_det.utils.records import typed_command, write_record
        from cbam_det.visualization.focus import focus, focus_table

        out = check_out(args.out, '.json')
        models = explainers(args)
        record = focus(models[0].predictor.cfg, models, args.split, args.count, args.score)
        record = write_record(out, typed_command(), dict(layer=args.layer, **record))
        print(focus_table(record))
        print(f'record written to {out}')
    elif args.command == 'report':
        from cbam_det.visualization.report import write

        out = check_out(args.out, '.html')
        write(args.work_dir, out, args.against, args.image, args.data_root)
        print(f'report written to {out}')
    else:
        from cbam_det.utils.files import check_output_file
        from cbam_det.visualization import figures

        check_output_file(figures.check_ending(args.out))
        print(f'picture written to {figures.save(draw_figure(args), args.out)}')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det_tools import missing_files

    kinds = ('image', 'config', 'checkpoint')
    files = [(kind, getattr(args, kind, None)) for kind in kinds]
    for config, checkpoint in () if args.command == 'report' else getattr(args, 'against', ()):
        files += [('config', config), ('checkpoint', checkpoint)]
    if status := missing_files(*files):
        return status
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: write_output(args))


if __name__ == '__main__':
    sys.exit(main())
