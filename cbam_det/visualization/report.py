"""A report of a run as one HTML file without links to other files."""

from __future__ import annotations

import base64
import contextlib
import difflib
import functools
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from mmengine.config import Config

from ..apis.inference import Predictor, unique_name
from ..checkpoints.files import read_weights_only
from ..datasets.validation.data_root import set_data_root
from ..evaluation.metrics import class_of_metric, metric_name
from ..models.attention_modules import at_start
from ..models.costs import count_costs
from ..utils.config import larger_rate, read_config
from ..utils.errors import InputError
from ..utils.files import atomic_write
from ..utils.installation import tool_command
from ..utils.records import last_checkpoint
from .attention import attention_page, gates
from .curves import SCORES, TrainingLog, curves, read_log
from .detections import dataset_of, detection_page
from .fonts import every_glyph
from .gradcam import Explainer, gradcam_page


@dataclass
class Section:
    """A section of a page.

    Attributes:
        title: the heading.
        items: sentences of a list, with `code` between backticks.
        tables: lists of rows, the first one the header.
        lines: lines of text in a fixed-width font; those of a diff are coloured.
        pictures: addresses from `picture`.
        note: a sentence below all of it.
    """

    title: str
    items: list[str] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    note: str = ''


@dataclass
class TrainedRun:
    """The files of a training in its work_dir.

    Attributes:
        folder: the work_dir.
        cfg: the config that MMEngine wrote there.
        checkpoint: the last checkpoint.
        log: the log of the training, with the name of the run.
        record: the newest `metrics.json` of tools/test.py, or {}.
    """

    folder: Path
    cfg: Config
    checkpoint: Path
    log: TrainingLog
    record: dict

    @property
    def name(self) -> str:
        """The name of the run, by default that of its folder."""
        return self.log.name

    @classmethod
    def of(cls, work_dir: str | Path, data_root: str | None) -> TrainedRun:
        """Read a work_dir.

        Raises:
            InputError: it has no log, no config or no checkpoint.
        """
        folder = Path(work_dir).resolve()
        log = read_log(folder)
        configs = sorted(folder.glob('*.py'), key=lambda path: path.stat().st_mtime)
        if not configs:
            raise InputError(f'{folder} has no config; give the work_dir of a training')
        checkpoint = last_checkpoint(folder)
        if checkpoint is None or not checkpoint.is_file():
            raise InputError(
                f'{folder} has no last checkpoint; wait until the training has written one, '
                'or train again'
            )
        cfg = read_config(str(configs[-1]))
        if data_root:
            set_data_root(cfg, data_root)
        records = sorted(folder.glob('*/metrics.json'), key=lambda path: path.stat().st_mtime)
        record = {}
        if records:
            with contextlib.suppress(ValueError):  # from an interrupted test
                record = json.loads(records[-1].read_text(encoding='utf-8'))
        return cls(folder, cfg, checkpoint, log, record)


def write(
    work_dir: str | Path,
    out: str | Path,
    against: str | Path | None = None,
    image: str | None = None,
    data_root: str | None = None,
) -> Path:
    """Write the report of a run. A section that cannot be made says why, and what to do.

    Args:
        work_dir: the work_dir of a training, and of its test, if there was one.
        out: the HTML file.
        against: the work_dir of the baseline, or None.
        image: the image on which attention is shown, by default the first of the test data.
        data_root: folder to read instead of the configs' data_root.

    Raises:
        InputError: a folder is not the work_dir of a training.
    """
    read_weights_only()
    run = TrainedRun.of(work_dir, data_root)
    base = None if against is None else TrainedRun.of(against, data_root)
    if base is not None:  # the folders A/run and B/run have one name
        base.log.name = unique_name(base.name, [run.name])
    runs = [run] if base is None else [run, base]
    predictors = [
        Predictor(trained_run.cfg, str(trained_run.checkpoint), trained_run.name)
        for trained_run in runs
    ]

    @functools.cache
    def image_path() -> str:
        return image or dataset_of(run.cfg, 'test').get_data_info(0)['img_path']

    sections = [
        _scores(runs),
        Section(
            'training curves',
            pictures=[picture(curves([trained_run.log for trained_run in runs]), 'svg')],
        ),
        figure_section('detections', lambda: detection_page(predictors[0])),
        attention_section(predictors[0], image_path),
        figure_section(
            'Grad-CAM',
            lambda: gradcam_page(image_path(), [Explainer(predictor) for predictor in predictors]),
        ),
        _costs(runs),
        setup_section(run),
        difference_section(runs),
    ]
    title = f'{run.name}: {Path(run.cfg.filename).stem}'
    return write_page(out, title, sections)


def write_page(
    out: str | Path,
    title: str,
    sections: Sequence[Section],
    lead: Sequence[str] = (),
    warning: str = '',
) -> Path:
    """Write sections as one HTML file without other files; `lead` and `warning` come first."""
    environment = Environment(
        loader=PackageLoader('cbam_det.visualization', ''), autoescape=select_autoescape()
    )
    environment.filters['code'] = _code
    template = environment.get_template('report.html')
    text = template.render(title=title, sections=sections, lead=lead, warning=warning)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as part:
        part.write_text(text, encoding='utf-8')
    return out


def _code(text: str) -> Markup:
    """HTML of a sentence, with what is between backticks as code."""
    return Markup(re.sub('`([^`]+)`', r'<code>\1</code>', str(escape(text))))


def setup_section(run: TrainedRun) -> Section:
    """The config's settings and the machine of a run."""
    cfg = run.cfg
    loader = cfg.train_dataloader
    optimizer = dict(cfg.optim_wrapper.get('optimizer', {}))
    rows = {
        'config': Path(cfg.filename).name,
        'checkpoint': run.checkpoint.name,
        'batch size per process': loader.get('batch_size', 'set by its batch_sampler'),
        'duration': ', '.join(
            f'{k} {cfg.train_cfg[k]}' for k in ('max_epochs', 'max_iters') if k in cfg.train_cfg
        ),
        'optimizer': ', '.join(f'{key} {value}' for key, value in optimizer.items()),
        'seed': (cfg.get('randomness') or {}).get('seed', 'random'),
        **run.record.get('environment', {}),
    }
    return Section('setup', tables=[[['', ''], *([k, str(v)] for k, v in rows.items())]])


def difference_section(runs: list[TrainedRun]) -> Section:
    """The config of a run as a diff from its baseline's, which is the second of `runs`."""
    title = 'config changes from the baseline'
    if len(runs) == 1:
        return Section(title, note='no baseline was given; add --against and its work_dir')
    for run in runs:
        run.cfg.work_dir, run.cfg.load_from = '', None
    ours, base = runs
    lines = list(
        difflib.unified_diff(
            base.cfg.pretty_text.splitlines(),
            ours.cfg.pretty_text.splitlines(),
            base.name,
            ours.name,
            lineterm='',
            n=2,
        )
    )
    return Section(title, lines=lines, note='' if lines else 'the configs are equal')


def _scores(runs: list[TrainedRun]) -> Section:
    notes = []
    tested = [run for run in runs if run.record]
    for run in runs:
        if not run.record:
            command = tool_command(
                'test', run.cfg.filename, run.checkpoint, '--work-dir', run.folder
            )
            validated = ', '.join(
                f'{name} {scores[-1]:.3f}'
                for name, (_, scores) in run.log.series.items()
                if name in SCORES
            )
            last = f' (last validation: {validated})' if validated else ''
            notes.append(f'{run.name} was not tested{last}; run {command}')
        elif (tested_on := Path(run.record['checkpoint']).name) != run.checkpoint.name:
            notes.append(f'{run.name}: the scores are those of {tested_on}')
    tables = score_tables({run.name: run.record.get('metrics', {}) for run in tested})
    return Section('scores', tables=tables, note='; '.join(notes))


def score_tables(metrics: Mapping[str, Mapping[str, float]]) -> list[list[list[str]]]:
    """A table of the APs of runs, a row for each run, and one by class, a column for each run.

    Args:
        metrics: of mmdet's evaluators, by the name of the run; those without a number are left out.
    """
    keys = dict.fromkeys(key for numbers in metrics.values() for key in numbers)

    def is_given(key: str) -> bool:
        return any(_number(run.get(key)) for run in metrics.values())

    sized = {key: name for key in keys if (name := metric_name(key)) and is_given(key)}
    classes = {key: name for key in keys if (name := class_of_metric(key)) and is_given(key)}
    tables = []
    if sized:
        rows = [[name, *(_number(run.get(key)) for key in sized)] for name, run in metrics.items()]
        tables.append([['', *sized.values()], *rows])
    if classes:
        rows = [
            [name, *(_number(run.get(key)) for run in metrics.values())]
            for key, name in classes.items()
        ]
        tables.append([['AP by class', *metrics], *rows])
    return tables


def _number(value: float | None) -> str:
    return f'{value:.3f}' if value is not None and value >= 0 else ''


def attention_section(predictor: Predictor, image_path: Callable[[], str]) -> Section:
    """The weights of the gates for an image."""
    section = figure_section('attention', lambda: attention_page(predictor, image_path()))
    if section.pictures:
        passes = gates(predictor.model, predictor.prepare(image_path()).data)
        weights = [
            weights
            for cbam_gates in passes
            for weights in (cbam_gates.channel, cbam_gates.spatial)
            if weights is not None
        ]
        if at_start(weights):
            section.note = (
                'the attention has no effect: all its weights are still at their initial value of '
                f'1.00; train longer, or with {larger_rate(predictor.cfg)}'
            )
    return section


def _costs(runs: list[TrainedRun]) -> Section:
    rows = [['', 'CBAMs', 'parameters', 'of these attention', 'GFLOPs (multiply-adds)', 'input']]
    notes = []
    for run in runs:
        try:
            cost = count_costs(run.cfg)
        except InputError as error:
            notes.append(f'{run.name}: {error}')
            continue
        size = 'x'.join(map(str, cost.size))
        rows.append(
            [
                run.name,
                *(f'{value:,}' for value in (cost.cbams, cost.parameters, cost.attention)),
                f'{cost.multiply_adds / 1e9:.3f}',
                size,
            ]
        )
    return Section('cost', tables=[rows] if len(rows) > 1 else [], note='; '.join(notes))


def figure_section(title: str, make: Callable[[], Figure], kind: str = 'png') -> Section:
    """A figure as a section, or the reason why there is none; see `picture`."""
    try:
        return Section(title, pictures=[picture(make(), kind)])
    except InputError as error:
        return Section(title, note=str(error))


def picture_file(path: Path) -> str:
    """A PNG file as an address that holds all of it."""
    return f'data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}'


def picture(figure: Figure, kind: str) -> str:
    """A figure as an address that holds all of it; `kind` is svg or png."""
    buffer = io.BytesIO()
    with every_glyph(figure):
        figure.savefig(buffer, format=kind, dpi=100)
    plt.close(figure)
    mime = 'image/svg+xml' if kind == 'svg' else 'image/png'
    return f'data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}'
