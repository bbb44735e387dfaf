"""Write the merged config of a training into its work_dir, from which it can be repeated."""

from __future__ import annotations

import copy
from pathlib import Path

from mmengine.runner import Runner

from ..utils.files import atomic_write


def dump_config(runner: Runner) -> None:
    """Write a runner's config to its work_dir, under the name of the config's file.

    The config is written without `resume` and the resumed checkpoint: a test with it must not
    resume, and a new training with it must not continue this one by itself. A config file that is
    in the work_dir already is kept as it is; the merged one is in `vis_data` of the log folder.
    """
    cfg = runner.cfg
    file = Path(runner.work_dir) / Path(cfg.filename or f'{runner.timestamp}.py').name
    if cfg.filename and Path(cfg.filename).resolve() == file.resolve():
        return
    if cfg.get('resume'):
        cfg = copy.deepcopy(cfg)
        if cfg.resume != 'auto':  # with it, load_from are the weights of a new training
            cfg.load_from = None
        cfg.resume = False
    with atomic_write(file) as part:
        part.write_text(cfg.dump(), encoding='utf-8')
