"""Write, change and remove records of studies in tests."""

from __future__ import annotations

import json
from pathlib import Path

from cbam_det.studies.records import add_record, read_record, records_path
from cbam_det.studies.study import Row, Study, run_name

# The keys that each record needs, with values for tests that do not use them.
MINIMAL_RECORD = dict(
    config_hash='',
    environment=dict(hardware='a CPU', threads=1, torch='2.12.1'),
    train_seconds=60,
    loss={},
    validation={},
    metrics={},
)


def put_record(results: Path, study: Study, row: Row, seed: int, **record: object) -> None:
    """Write the record of a run, replacing an existing one."""
    drop_record(results, study, row, seed)
    add_record(results, study, row, seed, MINIMAL_RECORD | record)


def change_record(results: Path, study: Study, row: Row, seed: int, **changes: object) -> None:
    """Change values in the record of a run."""
    record = read_record(results, study, row, seed) | changes
    drop_record(results, study, row, seed)
    add_record(results, study, row, seed, record)


def drop_record(results: Path, study: Study, row: Row, seed: int) -> None:
    """Remove the line of a run from the study's file, if there is one."""
    path = records_path(results, study)
    lines = path.read_text().splitlines() if path.is_file() else []
    name = run_name(study, row, seed)
    remaining = [line for line in lines if json.loads(line)['run'] != name]
    if lines:
        path.write_text(''.join(f'{line}\n' for line in remaining))
