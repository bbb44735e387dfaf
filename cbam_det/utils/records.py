"""Records of results: JSON files with the command, the versions and the hardware that made them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from .environment import describe
from .files import atomic_write


def log_lines(work_dir: str | Path) -> Iterator[dict]:
    """What the runs of a work_dir logged, from the first run to the last."""
    for log in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in log.read_text(encoding='utf-8').splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue  # the line that an interrupted run did not finish


def scored(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Metrics as JSON has them: None where there was nothing to score, which is NaN in a log and
    was pycocotools' -1 in older ones.
    """
    return {
        key: None if value is None or value != value or value == -1 else value
        for key, value in metrics.items()
    }


def typed_command() -> str:
    """The command line of this process: 'tools/test.py CONFIG CHECKPOINT', say."""
    program = Path(sys.argv[0])
    words = program.name.split()  # 'cbam-det test'
    if program.suffix == '.py':
        words = ['/'.join(program.parts[-2:])]
    return shlex.join([*words, *sys.argv[1:]])


def origin_line(record: dict) -> str:
    """The command, the hardware and torch's version, for the line below a table."""
    environment = record['environment']
    return f'`{record["command"]}`; {environment["hardware"]}, torch {environment["torch"]}'


def current_environment() -> dict[str, object]:
    """The versions, the hardware and the threads of this process, as records have them."""
    import torch

    return dict(describe(), threads=torch.get_num_threads())


def with_origin(command: str, record: dict) -> dict:
    """`record` after the command, the versions and the hardware that made it."""
    return dict(command=command, environment=current_environment(), **record)


def write_record(path: Path | None, command: str, record: dict) -> dict:
    """The record `with_origin`, written to `path`, if any."""
    record = with_origin(command, record)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            part.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    return record


def table_row(cells: Iterable[object]) -> str:
    """Cells as a row of a Markdown table."""
    return f'| {" | ".join(map(str, cells))} |'
