"""The logs of runs, and records of results: JSON files with the command, the versions and the
hardware that made them. Both are shown in tables in Markdown.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .environment import describe
from .files import atomic_write


def log_lines(work_dir: str | Path) -> Iterator[dict]:
    """The log entries of all runs of a work_dir, from the first run to the last."""
    for log in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in log.read_text(encoding='utf-8').splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue  # an interrupted run did not finish this line


def last_checkpoint(work_dir: str | Path) -> Path | None:
    """The last checkpoint of a training, also if its folder was moved.

    It may not exist any more. None if no file names one.
    """
    file = Path(work_dir) / 'last_checkpoint'
    try:
        path = Path(file.read_text(encoding='utf-8').strip())
    except (OSError, UnicodeDecodeError):
        return None
    if not path.name:  # an empty file
        return None
    moved = file.with_name(path.name)
    return path if path.is_file() and not moved.is_file() else moved


def scored(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics for JSON, with None if there was nothing to score and for infinity.

    Logs have NaN if there was nothing; older logs have pycocotools' -1. Tensors, and the numbers
    and arrays of numpy, become Python's numbers and lists.
    """
    return {key: _scored(value) for key, value in metrics.items()}


def _scored(value: Any) -> Any:
    if hasattr(value, 'tolist'):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_scored(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return None if value == -1 else value


def typed_command() -> str:
    """The command line of this process, such as 'tools/test.py CONFIG CHECKPOINT'."""
    program = Path(sys.argv[0])
    words = program.name.split()  # 'cbam-det test'
    if program.suffix == '.py':
        words = ['/'.join(program.parts[-2:])]
    return shlex.join([*words, *sys.argv[1:]])


def origin_line(record: dict) -> str:
    """The command, the hardware and the version of torch, for the line below a table."""
    environment = record['environment']
    return f'`{record["command"]}`; {environment["hardware"]}, torch {environment["torch"]}'


def current_environment() -> dict[str, object]:
    """The versions, the hardware and the number of threads of this process, for a record."""
    import torch

    return dict(describe(), threads=torch.get_num_threads())


def with_origin(command: str, record: dict) -> dict:
    """`record`, with the command, the versions and the hardware that made it in front."""
    return dict(command=command, environment=current_environment(), **record)


def write_record(path: Path | None, command: str, record: dict) -> dict:
    """Add its origin to `record`, see `with_origin`, and write it to `path` unless that is None."""
    record = with_origin(command, record)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            part.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    return record


def table_row(cells: Iterable[object]) -> str:
    """Cells as a row of a Markdown table."""
    return f'| {" | ".join(map(str, cells))} |'


def table_head(names: Sequence[str]) -> list[str]:
    """The two lines that begin a Markdown table whose columns but the first have numbers."""
    return [table_row(names), table_row(['---', *['---:'] * (len(names) - 1)])]
