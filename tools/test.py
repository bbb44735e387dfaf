"""Test a detector or a classifier, and write its metrics as JSON next to the log."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config

EXAMPLES = """examples:
  cbam-det test configs/faster_rcnn_r50_cbam_digits.py work_dirs/demo/epoch_5.pth
  cbam-det test CONFIG CHECKPOINT --out predictions.pkl --show-dir drawn"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    from cbam_det_tools import add_run_options

    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file, or the name of a shipped one')
    parser.add_argument('checkpoint', help='weights of the model')
    parser.add_argument(
        '--work-dir',
        help='folder for the log and the metrics (default: work_dirs/NAME_OF_THE_CONFIG)',
    )
    parser.add_argument('--out', help='file for the predictions, .pkl')
    parser.add_argument('--show', action='store_true', help='show the predictions in windows')
    parser.add_argument('--show-dir', help='draw the predictions into this folder, next to the log')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds for each window (default: %(default)s)'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation with the config's tta_model and tta_pipeline (default: flips)",
    )
    add_run_options(parser, 'dist_test.sh')
    return parser.parse_args(argv)


def add_tta(cfg: 'Config') -> None:
    """Add test-time augmentation, from the config's own keys or with horizontal flips."""
    from cbam_det.utils.data_config import leaf_datasets

    nms = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    model = cfg.get('tta_model') or dict(type='DetTTAModel', tta_cfg=nms)
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    packed = dict(type='PackDetInputs', meta_keys=(*keys, 'flip', 'flip_direction'))
    flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
    views = dict(type='TestTimeAug', transforms=[flips, [packed]])
    cfg.model = dict(**model, module=cfg.model)
    for _, dataset in leaf_datasets(cfg.test_dataloader.dataset, 'test_dataloader.dataset'):
        dataset.pipeline = cfg.get('tta_pipeline') or [*dataset.pipeline[:-1], views]


def test(args: argparse.Namespace) -> None:
    from mmdet.engine.hooks.utils import trigger_visualization_hook
    from mmdet.evaluation import DumpDetResults

    from cbam_det.datasets.validation.metainfo import palette_problem
    from cbam_det.engine.launch import build_runner, config_of
    from cbam_det.utils.build_errors import build_errors
    from cbam_det.utils.errors import InputError
    from cbam_det.utils.files import check_output_file
    from cbam_det.utils.split_config import Split
    from cbam_det.visualization.fonts import names_in_pictures

    if not (args.out or '.pkl').endswith(('.pkl', '.pickle')):
        raise InputError(f'--out {args.out}: predictions are written as .pkl; end the name in .pkl')
    if args.out:  # it is written after the last image
        check_output_file(args.out)
    cfg = config_of(args, 'test')
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.show or args.show_dir:
        if not (cfg.get('default_hooks') or {}).get('visualization'):
            raise InputError(
                f'--show and --show-dir need default_hooks.visualization, which {args.config} does '
                'not have; add dict(type="DetVisualizationHook")'
            )
        cfg = trigger_visualization_hook(cfg, args)
    if args.tta:
        add_tta(cfg)
    runner = build_runner(cfg, 'test')
    if args.out:
        with build_errors(cfg):  # it builds the data set and the metrics
            runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    names = nullcontext()
    if args.show or args.show_dir:
        if problem := palette_problem(cfg, 'test'):
            raise InputError(problem)
        names = names_in_pictures(Split.from_cfg(cfg, 'test').data_sets[0].classes)
    with names:
        runner.test()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det_tools import hide_gpus_without_operators, missing_files

    files = [('config', args.config), ('checkpoint', args.checkpoint)]
    if args.launcher == 'none' and (status := missing_files(*files)):
        return status
    hidden_gpus = hide_gpus_without_operators()
    from cbam_det.engine.launch import run_tool
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: run_tool(test, args, hidden_gpus))


if __name__ == '__main__':
    sys.exit(main())
