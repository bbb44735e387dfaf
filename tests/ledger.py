"""Records of the ledger, put and dropped by tests."""

from __future__ import annotations

import json
from pathlib import Path

from cbam_det.studies.records import add_record, read_record, records_path
from cbam_det.studies.study import Row, Study, run_name

# What each record has, where a test does not care for it.
BARE = dict(
    config_hash='',
    environment=dict(hardware='a CPU', threads=1, torch='2.12.1'),
    train_seconds=60,
    loss={},
    validation={},
    metrics={},
)


def put_record(results: Path, study: Study, row: Row, seed: int, **record: object) -> None:
    """Write the record of a run, in place of one that is there."""
    drop_record(results, study, row, seed)
    add_record(results, study, row, seed, BARE | record)


def change_record(results: Path, study: Study, row: Row, seed: int, **changes: object) -> None:
    """Write other values into the record of a run."""
    record = read_record(results, study, row, seed) | changes
    drop_record(results, study, row, seed)
    add_record(results, study, row, seed, record)


def drop_record(results: Path, study: Study, row: Row, seed: int) -> None:
    """Take the line of a run out of the study's file, if it is there."""
    path = records_path(results, study)
    lines = path.read_text().splitlines() if path.is_file() else []
    name = run_name(study, row, seed)
    kept = [line for line in lines if json.loads(line)['run'] != name]
    if lines:
        path.write_text(''.join(f'{line}\n' for line in kept))
