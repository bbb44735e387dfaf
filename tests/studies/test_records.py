"""Files of records: damaged lines, lines without a newline, contradictions."""

from __future__ import annotations

import fcntl
import json
import math
import re
from pathlib import Path

import pytest

from cbam_det.studies.record_format import OPTIONAL_KEYS, RECORD_KEYS
from cbam_det.studies.records import (
    add_record,
    check_records,
    config_hash,
    read_record,
    records_path,
)
from cbam_det.studies.runs import _losses, _numbers
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


def test_incomplete_last_line_affects_only_its_own_run_and_is_kept(small, path, capsys):
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:-2])
    row = small.rows['none']
    assert [read_record(path.parent, small, row, seed) is None for seed in (0, 1)] == [False, True]
    damaged = path.with_name('small.jsonl.damaged')
    warning = f'warning: the last line of {path} is not complete, .* moves it to {damaged}\n'
    assert re.fullmatch(warning, capsys.readouterr().err)
    add_record(path.parent, small, row, 1, MINIMAL_RECORD)
    assert path.read_bytes() == first + second and damaged.read_bytes() == second[:-2] + b'\n'
    assert all(read_record(path.parent, small, row, seed) for seed in (0, 1))


def test_line_that_another_process_is_writing_is_no_warning(small, path, capsys):
    with path.open('ab') as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(b'{"run": ')
        stream.flush()
        assert read_record(path.parent, small, small.rows['none'], 1)
    assert capsys.readouterr().err == ''


def test_blank_lines_are_skipped_but_counted_in_line_numbers(small, path):
    first, second = path.read_text().splitlines()
    path.write_text(f'\n{first}\r\n \n{second}\n\n')
    assert all(read_record(path.parent, small, small.rows['none'], seed) for seed in (0, 1))
    path.write_text(f'{first}\n\n{{"run": \n')
    with pytest.raises(InputError, match=r'small\.jsonl, line 3 is not valid JSON'):
        read_record(path.parent, small, small.rows['none'], 0)


@pytest.mark.parametrize('key', [*RECORD_KEYS, *OPTIONAL_KEYS])
def test_missing_key_or_wrong_type_in_a_record_is_reported(key, small, path):
    first, second = lines(path)
    for value, shown in ((None, 'not None'), ([], r'not \[\]')):
        write(path, first, {**second, key: value})
        with pytest.raises(
            InputError, match=rf'small\.jsonl, line 2: {key} must be an? .*, {shown}'
        ):
            read_record(path.parent, small, small.rows['none'], 0)
    second.pop(key, None)
    write(path, first, second)
    if key in OPTIONAL_KEYS:
        assert read_record(path.parent, small, small.rows['none'], 1) == second
        return
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
        *(
            (dict(metrics={'AP': value}), rf'metrics\.AP must be a number, not {value}; remove')
            for value in (math.nan, math.inf, True)
        ),
        (dict(train_seconds=math.nan), 'train_seconds must be a number, not nan'),
        (dict(loss={'1': 's'}), r"loss\.1 must be a number, not 's'"),
        (dict(loss={'q': 1}), "'q' in loss or validation is not an epoch"),
        (dict(validation={'x': {}}), "'x' in loss or validation is not an epoch"),
        (dict(validation={'1': 5}), r'validation\.1 must be an object, not 5'),
        (dict(validation={'1': {'AP': []}}), r'validation\.1\.AP must be a number, not \[\]'),
        (dict(starts_from={'first': 5}), r'starts_from\.first must be a string, not 5'),
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


def test_logged_numbers_that_a_record_cannot_have_are_left_out():
    lines = [dict(step=step, epoch=1, loss=loss) for step, loss in ((1, 2.0), (2, math.nan))]
    assert _losses(lines) == {1: 2.0}
    line = {'coco/AP': math.nan, 'coco/AR': 0.5, 'a/done': True, 'a/name': 'x', 'a/each': [0.1]}
    assert _numbers(line) == {'coco/AP': None, 'coco/AR': 0.5}


def test_two_files_with_different_records_of_a_run_are_reported(small, path):
    first, second = lines(path)
    copy = path.with_name('copy.jsonl')
    write(copy, {**first, 'row': 'of another study', 'command': 'run another study'})
    assert read_record(path.parent, small, small.rows['none'], 0) == first
    write(copy, first | dict(metrics={'coco/bbox_mAP': 0.9}))
    assert read_record(path.parent, small, small.rows['none'], 1) == second
    message = (
        f'^{path} and {copy} have different records of the run faster_rcnn_r50_digits-0; remove '
        f'its line in one of them, or move {copy} to another folder'
    )
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
    message = (
        r'_digits-0 was made with another number of processes \(1\) than .* \(4\); remove the line '
        f'of faster_rcnn_r50_digits-0 in {path} and the folder w/faster_rcnn_r50_digits-0, or the '
        f'line of faster_rcnn_r50_cbam_digits-0 in {path} and the folder w/faster_.*, to run'
    )
    with pytest.raises(InputError, match=message):
        check_records(small, path.parent, runs, Path('w'))
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
