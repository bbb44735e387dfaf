"""Insert CBAM into every config of mmdet's model zoo, as a user would.

Each config gets the lines that `places.fragment` prints for the paper's places in its backbone;
then the model is built, and its backbone runs on an image. Failures do not stop the sweep; they
are recorded with their reason.
"""

from __future__ import annotations

import argparse
import copy
import functools
import re
import shlex
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import mmdet
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from rich.console import Console
from rich.progress import track

from benchmarks.tables import sweep_table
from cbam_det.models.build import build_model
from cbam_det.models.channels import record_output
from cbam_det.models.layers import CBAM
from cbam_det.models.paper_places import PATTERNS, family_of
from cbam_det.models.places import fragment
from cbam_det.utils.config import detector
from cbam_det.utils.errors import InputError
from cbam_det.utils.exits import one_line_errors
from cbam_det.utils.records import write_record

ZOO = Path(mmdet.__file__).parent / '.mim' / 'configs'
# How mmdet, mmengine and Python report a missing library.
MISSING = re.compile(
    r"(\w+) is not installed|(?:pip|mim) install (?!openmim)(\w+)|No module named '(\w+)"
    r"|'imports': \['(\w+)"
)


@dataclass(frozen=True)
class Outcome:
    """The result for a config: the number of CBAMs that were built, or the reason for a failure."""

    family: str = ''
    cbams: int = 0
    reason: str = ''


def zoo(pattern: str = '*') -> list[str]:
    """The configs of the installed mmdet that match `pattern`, as paths in its folder of configs.

    Raises:
        InputError: none matches.
    """
    names = [path.relative_to(ZOO).as_posix() for path in sorted(ZOO.rglob('*.py'))]
    matching = [
        name for name in names if not name.startswith('_base_') and fnmatchcase(name, pattern)
    ]
    if not matching:
        raise InputError(f'no config of {ZOO} matches {pattern!r}; give one such as retinanet/*')
    return matching


def sweep(names: Iterable[str]) -> dict:
    """`attempt` each config; returns totals, counts by family, and configs by reason of failure."""
    outcomes = {name: attempt(name) for name in names}
    families: dict[str, dict] = {}
    for family in sorted({outcome.family for outcome in outcomes.values()} - {''}):
        counts = [outcome.cbams for outcome in outcomes.values() if outcome.family == family]
        built = [count for count in counts if count]
        families[family] = dict(
            pattern=_patterns(family),
            built=len(built),
            refused=len(counts) - len(built),
            cbams=[min(built), max(built)] if built else None,
        )
    reasons: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        if outcome.reason:
            reasons.setdefault(outcome.reason, []).append(name)
    refused = sum(map(len, reasons.values()))
    return dict(
        totals=dict(configs=len(outcomes), built=len(outcomes) - refused, refused=refused),
        families=families,
        reasons=dict(sorted(reasons.items(), key=lambda reason: -len(reason[1]))),
    )


def attempt(name: str) -> Outcome:
    """Insert CBAMs into the backbone of the zoo's config `name`, and run it.

    A detector inside a tracker or a semi-supervised model is tried alone.
    """
    try:
        cfg = Config.fromfile(ZOO / name)
    except Exception as error:
        return Outcome(reason=f'mmdet cannot read it: {_reason(error)}')
    if 'model' not in cfg:
        return Outcome(reason='it holds no model')
    model = detector(cfg)
    if 'type' not in model.get('backbone', {}):
        return Outcome(reason=f'its {cfg.model.type} has no backbone of mmdet')
    if 'teacher_ckpt' in model:
        model.teacher_ckpt = None  # the constructor would download these weights
    if isinstance(model.get('teacher_config'), str):
        model.teacher_config = str(ZOO.parent / model.teacher_config)  # relative to a checkout
    cfg = Config(dict(model=model, default_scope=cfg.get('default_scope', 'mmdet')))
    # 'meta' computes nothing and is fast, but some modules and operators need real tensors.
    outcome = _attempt(cfg, 'meta')
    return _attempt(cfg, 'cpu') if outcome.reason else outcome


@torch.no_grad()
def _attempt(cfg: Config, device: str) -> Outcome:
    backbone = cfg.model.backbone
    family = backbone.type
    outputs: dict[CBAM, object] = {}
    with torch.device(device):
        try:
            own_keys = set(build_model(cfg).state_dict())
        except Exception as error:
            return Outcome(family, reason=f'mmdet cannot build it: {_reason(error)}')
        try:
            lines = Config.fromstring(fragment(cfg, 'backbone'), '.py')
            merged = copy.deepcopy(cfg)
            merged.merge_from_dict(lines.to_dict())
            model = build_model(merged)
            cbams = [module for module in model.modules() if isinstance(module, CBAM)]
            for cbam in cbams:
                cbam.register_forward_hook(functools.partial(record_output, outputs, cbam))
            model.eval()
            model.backbone(torch.zeros(1, 3, 224, 224))
        except Exception as error:
            return Outcome(family, reason=f'with CBAM: {_reason(error)}')
    if own_keys - set(model.state_dict()):
        return Outcome(family, reason="with CBAM: the backbone's own plugins are lost")
    if not cbams or len(outputs) < len(cbams):
        return Outcome(family, reason=f'with CBAM: {len(outputs)} of {len(cbams)} run')
    return Outcome(family, len(cbams))


def _patterns(backbone: str) -> list[str | tuple[str, ...]] | None:
    kind = MODELS.get(backbone)
    return PATTERNS.get(family_of(kind)) if kind else None


def _reason(error: Exception) -> str:
    """The error in one line, without text that differs between machines."""
    text = ' '.join(str(error).split())
    if missing := MISSING.search(text):
        return f'{missing[missing.lastindex]} is not installed'
    if isinstance(error, FileNotFoundError):
        return 'it names a file that is not there'
    kind = '' if isinstance(error, InputError) else f'{type(error).__name__}: '
    return f'{kind}{text}'.replace(f'{ZOO}/', '')[:200]


EXAMPLES = """examples:
  python -m benchmarks.sweep --only 'retinanet/*'
  python -m benchmarks.sweep --out results/sweep.json"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Insert CBAM into every config of the installed mmdet, and count the results.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--only', default='*', help='pattern of config names (default: %(default)s)'
    )
    parser.add_argument('--out', type=Path, help='JSON file for the record')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    warnings.simplefilter('ignore')  # from mmdet's own configs
    names = track(zoo(args.only), 'sweep', console=Console(stderr=True))
    command = shlex.join(['python', '-m', 'benchmarks.sweep', *sys.argv[1:]])
    print(sweep_table(write_record(args.out, command, sweep(names))))


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
