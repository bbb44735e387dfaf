"""Files of records: damaged lines, lines without a newline, contradictions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cbam_det.studies.records import (
    RECORD_KEYS,
    add_record,
    check_records,
    config_hash,
    read_record,
    records_path,
)
from cbam_det.studies.study import Study
from cbam_det.utils.errors import InputError

from ..study_records import MINIMAL_RECORD, change_record, put_record


@pytest.fixture
def path(small: Study, tmp_path: Path) -> Path:
    """The file of the small study's records: the row `none` with seeds 0 and 1."""
    for seed in (0, 1):
        put_record(tmp_path, small, small.rows['none'], seed)
    return records_path(tmp_path, small)


def write(path: Path, *records: dict) -> None:
    path.write_text(''.join(f'{json.dumps(record)}\n' for record in records))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_last_record_without_a_newline_is_kept_and_the_next_one_follows_it(small, path):
    first, second = path.read_text().splitlines()
    path.write_text(f'{first}\n{second}')
    row = small.rows['none']
    assert read_record(path.parent, small, row, 1) == json.loads(second)
    add_record(path.parent, small, row, 2, MINIMAL_RECORD)
    assert path.read_text().startswith(f'{first}\n{second}\n')
    assert [record['run'][-1] for record in lines(path)] == ['0', '1', '2']


def test_blank_lines_are_skipped_but_counted_in_line_numbers(small, path):
    first, second = path.read_text().splitlines()
    path.write_text(f'\n{first}\r\n \n{second}\n\n')
    assert all(read_record(path.parent, small, small.rows['none'], seed) for seed in (0, 1))
    path.write_text(f'{first}\n\n{{"run": \n')
    with pytest.raises(InputError, match=r'small\.jsonl, line 3 is not valid JSON'):
        read_record(path.parent, small, small.rows['none'], 0)


@pytest.mark.parametrize('key', RECORD_KEYS)
def test_missing_key_or_wrong_type_in_a_record_is_reported(key, small, path):
    first, second = lines(path)
    for value, shown in ((None, 'not None'), ([], r'not \[\]')):
        write(path, first, {**second, key: value})
        with pytest.raises(
            InputError, match=rf'small\.jsonl, line 2: {key} must be an? .*, {shown}'
        ):
            read_record(path.parent, small, small.rows['none'], 0)
    del second[key]
    write(path, first, second)
    with pytest.raises(InputError, match=rf'small\.jsonl, line 2: the record has no {key};'):
        read_record(path.parent, small, small.rows['none'], 0)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(environment=dict(hardware='a CPU', torch='2')), 'has no environment.threads'),
        (
            dict(metrics={'coco/bbox_mAP': '0.4'}),
            r"metrics\.coco/bbox_mAP must be a number, not '0\.4'",
        ),
    ],
)
def test_wrong_values_that_tables_read_are_reported(changes, message, small, path):
    first, second = lines(path)
    write(path, first, second | changes)
    with pytest.raises(InputError, match=f'line 2: .*{message}'):
        read_record(path.parent, small, small.rows['none'], 0)


def test_duplicate_records_of_a_run_are_reported_with_their_lines(small, path):
    first, second = lines(path)
    write(path, first, second, first | dict(metrics={'coco/bbox_mAP': 0.9}))
    message = r'small\.jsonl, lines 1 and 3 are both records of the run faster_rcnn_r50_digits-0; '
    with pytest.raises(InputError, match=message):
        read_record(path.parent, small, small.rows['none'], 0)


def test_run_that_two_commands_finish_is_recorded_once(small, path):
    before = path.read_text()
    kept = add_record(path.parent, small, small.rows['none'], 1, MINIMAL_RECORD | dict(loss={1: 9}))
    assert path.read_text() == before and kept == lines(path)[1]


def test_records_with_other_processes_or_data_than_their_baseline_are_refused(small, path):
    for row in small.rows.values():
        place = (path.parent, small, row, 0)
        put_record(*place, config_hash=config_hash(small, row, 0), data={'val': 'a'}, processes=1)
    runs = [(small.rows['none'], 0)]
    check_records(small, path.parent, runs)
    place = (path.parent, small, small.rows['CBAM'], 0)
    change_record(*place, processes=4)
    message = r'_digits-0 was made with another number of processes \(1\) than .* \(4\); remove'
    with pytest.raises(InputError, match=message):
        check_records(small, path.parent, runs)
    change_record(*place, processes=1, data={'val': 'b'})
    with pytest.raises(InputError, match=r"_digits-0 was made with other data .*'a'.*'b'"):
        check_records(small, path.parent, runs)


def test_record_with_the_wrong_row_for_its_run_is_reported(small, path, tool, capsys):
    first, second = lines(path)
    write(path, first, second | dict(row='CBAM'))
    message = "digits-1 has the row 'CBAM', but this run belongs to 'none'; "
    with pytest.raises(InputError, match=message):
        check_records(small, path.parent)
    options = ('--studies', path.parent / 'studies', '--results', path.parent)
    assert tool(*options, 'table', 'small') == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1
