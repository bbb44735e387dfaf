"""Check the data of a config, before a run and for `check_data CONFIG`."""

from __future__ import annotations

import logging
import os
import shlex
from functools import partial
from pathlib import Path

from mmengine.logging import print_log

from ...utils.config import given_options
from ...utils.data_config import DataSet
from ...utils.installation import tool_command
from ...utils.options import cfg_options
from ...utils.run_config import RunConfig
from ...utils.split_config import Split
from .channels import check_channels
from .classes import check_same_classes
from .config_splits import config_splits
from .dataset import Summary, check_content, check_not_shared
from .evaluators import check_evaluators
from .filters import check_filters
from .images import Decoded, pixel_notes
from .maps import check_maps
from .metainfo import check_metainfo
from .metric_options import check_metrics, check_monitored, note_limits
from .pipeline import check_pipelines
from .splits import AnnotatedSplit, decode_images, find_image_faults


def check_data(
    run: RunConfig,
    names: tuple[str, ...],
    full: bool = False,
    examined: list[AnnotatedSplit] | None = None,
) -> dict[str, Summary]:
    """Check the data sets, pipelines and evaluators of a config, and log what they contain.

    Args:
        run: the config.
        names: the splits to check, 'train', 'val' or 'test'.
        full: decode every image.
        examined: the splits' annotation files with all their faults, if these are known already.

    Returns:
        A summary of each data set that is read as COCO or VOC, by its key path.

    Raises:
        InputError: the first fault that would stop the run, be learned or make a score wrong.
    """
    splits = [run.splits[name] for name in names if name in run.splits]
    check_options(run, splits)
    note_limits(run)
    fix = partial(fix_command, run)
    decoded: dict[str, Decoded] = {}
    notes: dict[str, list[str]] = {}  # of the check of the images, by key path of the data set
    if examined is None:
        examined = config_splits(run, names)
        if full:
            decoded = decode_images(examined, 'decoding the images')
        find_image_faults(examined, decoded or None, run.settings.allow_shared_images)
        notes = {place: listed.notes for listed in examined for place in listed.places}
    by_place = {place: listed for listed in examined for place in listed.places}
    summaries: dict[str, Summary] = {}
    for split in splits:
        for dataset in split.data_sets:
            listed = by_place.get(dataset.place)
            if listed is None:
                reason = 'neither COCO nor VOC' if dataset.is_local else 'not on a local disk'
                print_log(f'{split.name} data: not checked, as {dataset.name} is {reason}')
                continue
            content = listed.content
            summary = check_content(dataset, content, fix)
            check_maps(run.cfg, dataset, content)
            summary.notes += notes.get(dataset.place, [])
            if decoded:
                summary.notes += pixel_notes(
                    decoded[image.path] for image in content.images if image.path
                )
            summaries[dataset.place] = summary
            print_log(f'{split.name} data: {summary}')
            _warn_of_padding(split, dataset, summary)
        check_metainfo(run.cfg, split.name)
        check_evaluators(split, run.model)
    if not run.model.has_language_model:  # which is told the classes of each set
        compared = [run.splits[name] for name in run.splits if name in ('train', *names)]
        data_sets = [dataset for split in compared for dataset in split.data_sets]
        check_same_classes({dataset.place: dataset.classes for dataset in data_sets})
    for listed in examined:
        check_not_shared(listed.content, fix)
    return summaries


def check_options(run: RunConfig, splits: list[Split]) -> None:
    """Check the pipelines, channels, filters and metrics of a config, without reading files.

    Raises:
        InputError: see `pipeline`, `channels`, `filters` and `metric_options`.
    """
    for split in splits:
        check_pipelines(split)
        check_filters(split)
        if split.name != 'train':
            check_metrics(split)
        if split.name == 'val':
            check_monitored(run)
    check_channels(run.cfg, run.splits.values(), [split.name for split in splits])


def _warn_of_padding(split: Split, dataset: DataSet, summary: Summary) -> None:
    """Warn if images of different shapes are padded to one size in an evaluation.

    Features near the padding change with it, so that scores depend on the batch.
    """
    is_evaluated = split.name != 'train' and split.batch_size > 1
    if is_evaluated and summary.shapes > 1 and not dataset.has_fixed_size:
        print_log(
            f'{split.loader}.batch_size={split.batch_size}: its images have {summary.shapes} '
            'different shapes and are padded to one size, so scores depend on the batch; '
            f'give {cfg_options({f"{split.loader}.batch_size": 1})}',
            level=logging.WARNING,
        )


def fix_command(run: RunConfig) -> str:
    """The command that writes clean files for the data of a config, which must be a file."""
    words = [run.filename or 'CONFIG']
    roots = {dataset.root for split in run.splits.values() for dataset in split.data_sets}
    if len(roots) == 1 and (root := roots.pop()) != Path():
        words += ['--data-root', os.path.abspath(root)]
    options = given_options(run.cfg)
    if options:
        words += shlex.split(cfg_options(options))
    return tool_command('check-data', *words, '--fix')
