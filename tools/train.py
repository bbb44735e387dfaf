"""Train a detector or a classifier, after checks of config, data and weights."""

import argparse
import sys
from collections.abc import Sequence

EXAMPLES = """examples:
  cbam-det train configs/faster_rcnn_r50_cbam_digits.py --resume
  cbam-det train configs/faster_rcnn_r50_cbam.py --data-root /data/coco --amp
  cbam-det train configs/faster_rcnn_r50_cbam.py --cfg-options train_cfg.max_epochs=24"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    from cbam_det_tools import add_run_options

    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file, or the name of a shipped one')
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints (default: work_dirs/NAME_OF_THE_CONFIG)'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from this checkpoint; without a value, from the last one in the '
        'work_dir, if there is one',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision (bfloat16 on CPUs)')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="adapt the learning rate to the batch size, with the config's auto_scale_lr",
    )
    parser.add_argument(
        '--log',
        action='append',
        choices=['tensorboard', 'wandb', 'mlflow'],
        default=[],
        help='also log to this service (needs its package); can be given several times',
    )
    add_run_options(parser, 'dist_train.sh, slurm_train.sh')
    return parser.parse_args(argv)


def train(args: argparse.Namespace) -> None:
    from cbam_det.engine.launch import build_runner, config_of
    from cbam_det.engine.log_backends import add_log_backends
    from cbam_det.utils.errors import InputError

    if args.resume == '':
        raise InputError(
            "--resume '' names no checkpoint; give its file, or --resume alone to continue from "
            'the last one in the work_dir'
        )
    cfg = config_of(args, 'train')
    add_log_backends(cfg, args.log)
    if args.amp and cfg.get('optim_wrapper'):  # without it, the check of the config says so
        amp = dict(type='AmpOptimWrapper', loss_scale='dynamic')
        cfg.merge_from_dict(dict(optim_wrapper=amp))
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise InputError(
                f'--auto-scale-lr: {args.config} does not give the batch size of its learning '
                'rate; add auto_scale_lr=dict(base_batch_size=...) to it'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume == 'auto':
        cfg.resume = 'auto'
    elif args.resume is not None:
        cfg.resume = True
        cfg.load_from = args.resume
    build_runner(cfg, 'train').train()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det_tools import hide_gpus_without_operators, missing_files

    files = [('config', args.config), ('--resume', None if args.resume == 'auto' else args.resume)]
    if args.launcher == 'none' and (status := missing_files(*files)):
        return status
    hidden_gpus = hide_gpus_without_operators()
    from cbam_det.engine.launch import run_tool
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: run_tool(train, args, hidden_gpus))


if __name__ == '__main__':
    sys.exit(main())
