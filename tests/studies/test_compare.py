"""A project of twins: its verdict in one sentence, its page, what is trained, and its errors."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.logging import MMLogger
from scipy import stats

from cbam_det.studies import compare as compare_module
from cbam_det.studies import compare_page, project_study
from cbam_det.studies import study as study_module
from cbam_det.studies.compare_page import verdict_sentences, write
from cbam_det.studies.comparison import Comparison, compare, seeds_for_width, seeds_needed
from cbam_det.studies.next_steps import next_steps
from cbam_det.studies.project_study import ProjectStudy
from cbam_det.studies.records import config_hash, data_digits, read_record
from cbam_det.studies.sentences import duration, interval, verdict_sentence
from cbam_det.studies.study import gates_path, read_study, run_name
from cbam_det.utils.errors import InputError

from ..conftest import in_process
from ..study_records import change_record, put_record
from .projects import make_project

LOW_AP, HIGH_AP = (0.400, 0.410, 0.405), (0.406, 0.420, 0.410)


@pytest.fixture
def folder(digits: Path, tmp_path: Path) -> Path:
    """A project over the small digits."""
    return make_project(tmp_path / 'my digits', digits)


def record(project: ProjectStudy, row: str, aps: tuple[float, ...]) -> None:
    """Put a record for each seed of a row: AP, twice as much AP50, and AP of a size and a class."""
    for seed, ap in enumerate(aps):
        metrics = {'coco/bbox_mAP': ap, 'coco/bbox_mAP_50': 2 * ap, 'coco/bbox_mAP_s': ap / 2}
        metrics['coco/four_precision'] = ap + 0.1
        validation = {epoch: {'coco/bbox_mAP': ap * epoch / 5} for epoch in (3, 4, 5)}
        measured = dict(metrics=metrics, validation=validation, memory_mib=1000)
        measured['train_seconds'] = 600 if row == 'CBAM' else 500
        put_record(project.results, project.study, project.study.rows[row], seed, **measured)


@pytest.fixture
def recorded(folder: Path) -> ProjectStudy:
    """The project with records of three seeds, whose checkpoints are gone."""
    project = ProjectStudy.read(folder)
    record(project, 'baseline', LOW_AP)
    record(project, 'CBAM', HIGH_AP)
    return project


@pytest.mark.parametrize(
    ('gaps', 'verdict'),
    [
        ([0.4, 0.7, 1.3], 'AP +0.8 (-0.3 to +1.9), three seeds: no difference seen; about 1 more '
         'seed would show a difference of 1 point.'),
        ([2, -1, 0, 1], 'AP +0.5 (-1.6 to +2.6), four seeds: no difference seen; about 12 more '
         'seeds would show a difference of 1 point.'),
        ([30, -30], 'AP +0.0 (-381.2 to +381.2), two seeds: no difference seen; more than 1,000 '
         'seeds would be needed to show a difference of 1 point.'),
        ([0.1, -0.1, 0.1, -0.1, 0.0], 'AP +0.0 (-0.1 to +0.1), five seeds: no difference seen; a '
         'difference of 1 point would probably have been seen.'),
        ([1.0, 1.2, 1.1], 'AP +1.1 (+0.9 to +1.3), three seeds: CBAM is better.'),
        ([-1.0, -1.2, -1.1], 'AP -1.1 (-1.3 to -0.9), three seeds: CBAM is worse.'),
        ([0.8], 'AP +0.8, one seed: no verdict, since one seed has no interval.'),
        ([0.5] * 12, 'AP +0.5 (+0.5 to +0.5), 12 seeds: no verdict, since all differences are '
         'equal.'),
    ],
    ids=['one more', 'more', 'too many', 'enough', 'better', 'worse', 'one seed', 'equal'],
)  # fmt: skip
def test_verdict_is_one_sentence_with_its_interval_and_the_seeds_that_are_missing(gaps, verdict):
    comparison = compare(dict(enumerate(gaps)), dict.fromkeys(range(len(gaps)), 0.0))
    sentence = verdict_sentence('CBAM', 'baseline', 'AP', comparison)
    assert sentence == f'CBAM against baseline: {verdict}'


def test_end_of_an_interval_near_zero_shows_its_side():
    assert interval(Comparison(3, 0.8, 0.04, 1.56)) == '+0.80 (+0.04 to +1.56)'
    assert interval(Comparison(3, 0.8, -0.04, 1.64)) == '+0.80 (-0.04 to +1.64)'


@pytest.mark.parametrize('deviation', [0.5, 1.5])
def test_seeds_needed_show_the_difference_in_four_of_five_cases(deviation):
    half_width = deviation * stats.t.ppf(0.975, 3) / 2  # of four seeds
    count = seeds_needed(Comparison(4, 0.0, -half_width, half_width), 1)
    random = np.random.default_rng(0)

    def shown(seeds: int) -> float:
        gaps = random.normal(1, deviation, (20_000, seeds))
        return float((stats.ttest_1samp(gaps, 0, axis=1).pvalue < 0.05).mean())

    assert shown(count) > 0.79 and shown(count - 1) < 0.8


def test_seeds_for_a_width_are_the_fewest_whose_interval_is_as_narrow():
    gaps = {0: 0.3, 1: -0.9, 2: 1.4, 3: 0.1}
    comparison = compare(gaps, dict.fromkeys(gaps, 0))
    count = seeds_for_width(comparison, 0.5)
    deviation = np.std([*gaps.values()], ddof=1)

    def half_width(seeds: int) -> float:
        return stats.t.interval(0.95, seeds - 1, scale=deviation / np.sqrt(seeds))[1]

    assert half_width(count) <= 0.5 < half_width(count - 1) and count == 17
    assert seeds_for_width(comparison, 1e-3) is None  # more than a thousand
    assert seeds_for_width(Comparison(1, 0.3), 0.5) is None


def test_durations_are_in_the_unit_of_their_size():
    texts = [duration(seconds) for seconds in (4.4, 89, 600, 3600 * 3 + 60 * 20)]
    assert texts == ['4 s', '89 s', '10 min', '3 h 20 min']


def test_page_opens_with_the_verdict_and_needs_no_other_file(recorded):
    text = write(recorded).read_text(encoding='utf-8')
    body = text.partition('<body>')[2]
    verdict = 'CBAM against baseline: AP +0.70 (+0.04 to +1.36), three seeds: CBAM is better.'
    assert body.index('<h1>Does CBAM help on my digits?') < body.index(verdict)
    assert body.index(verdict) < body.index('<h2') and 'class="warning"' not in body
    assert re.findall(r'<h2 id="s\d+">(.*?)</h2>', body) == [
        *('scores', 'curves', 'AP by size and class', 'detections', 'cost', 'what to try next'),
    ]
    assert '<code>python ' in body and '&lt;code' not in body
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    rows = re.findall('<tr>(.*?)</tr>', body)
    cells = [re.findall('<t[hd]>(.*?)</t[hd]>', row) for row in rows]
    assert ['baseline', '3', '40.5 ± 0.5', '81.0 ± 1.0', ''] in cells
    assert any(row[:3] == ['four', '3', '50.50'] for row in cells)
    assert any(row[:2] == ['small objects', '3'] for row in cells)
    assert any(row[1:3] == ['10 min (+20%)', '1,000 (+0%)'] for row in cells)
    assert 'no checkpoint' in body and f'{run_name_of(recorded)} ' in body


def run_name_of(project: ProjectStudy) -> str:
    return run_name(project.study, project.study.rows['baseline'], 0)


def test_attention_at_its_start_is_in_the_verdict_and_a_row_to_paste_trains_it_faster(recorded):
    record(recorded, 'CBAM', LOW_AP[::-1])
    (sentence,) = verdict_sentences(recorded)
    assert 'has no effect' not in sentence
    weights = dict(channel=[0.999, 1.0, 1.001], spatial=[1.0, 1.0, 1.0])
    gates_path(recorded.results, recorded.study).write_text(
        json.dumps(dict(rows=dict(CBAM=weights)))
    )
    (sentence,) = verdict_sentences(recorded)
    assert sentence.endswith(
        'The attention of CBAM is still at its initial weights and has no effect: see what to try '
        'next.'
    )
    items, lines = next_steps(recorded)
    assert any('larger learning rate: add the row below' in item for item in items)
    path = recorded.folder / 'study.yaml'
    path.write_text(path.read_text() + '\n'.join(lines) + '\n')
    row = read_study(path).rows['CBAM, learning rate of attention x10']
    assert row.overrides == {'optim_wrapper.paramwise_cfg.custom_keys.cbam.lr_mult': 10}
    assert row.against == 'baseline' and Path(row.config) == recorded.folder / 'cbam.py'


def test_next_steps_are_more_seeds_with_their_time_a_longer_training_and_other_places(recorded):
    record(recorded, 'CBAM', (0.405, 0.395, 0.410))
    more, longer, places = next_steps(recorded)[0]
    assert more.startswith('More seeds: `python ') and "/my digits' --seeds " in more
    needed = int(re.search(r'--seeds (\d+)', more)[1])
    assert f'takes about {duration((needed - 3) * 1100)} and shows' in more
    assert longer.startswith('CBAM was still improving at its last validation')
    assert "places.py '" in places and "/my digits/baseline.py'` lists" in places


@pytest.mark.parametrize('gap', [0, 0.001])
def test_equal_differences_are_called_equal_and_more_seeds_are_not_advised(gap, recorded):
    record(recorded, 'CBAM', tuple(ap + gap for ap in LOW_AP))
    items = ' '.join(next_steps(recorded)[0])
    assert 'The differences of CBAM are equal for all seeds' in items
    assert 'vary so much' not in items and 'narrow the interval' not in items


def test_validations_without_the_first_metric_do_not_count_as_rising(recorded):
    for seed in range(3):
        validation = {epoch: {'coco/bbox_mAP': None} for epoch in (3, 4, 5)}
        row = recorded.study.rows['CBAM']
        change_record(recorded.results, recorded.study, row, seed, validation=validation)
    assert not any('still improving' in item for item in next_steps(recorded)[0])


def test_page_names_a_damaged_checkpoint_and_a_metric_without_values(recorded, monkeypatch):
    def damaged(*_: object) -> None:
        raise InputError('epoch_5.pth is damaged')

    for row, seed in recorded.study.runs():
        metrics = {'coco/bbox_mAP': None, 'coco/bbox_mAP_50': 0.8}
        change_record(recorded.results, recorded.study, row, seed, metrics=metrics)
    run = SimpleNamespace(log=SimpleNamespace(), cfg=None, checkpoint='epoch_5.pth')
    monkeypatch.setattr(compare_page.TrainedRun, 'of', lambda *_: run)
    monkeypatch.setattr(compare_page, 'Predictor', damaged)
    text = write(recorded).read_text(encoding='utf-8')
    assert 'epoch_5.pth is damaged' in text and 'no run of study is recorded' in text
    assert '80.0 ± 0.0' in text


def test_verdict_is_printed_even_if_the_page_cannot_be_written(recorded, monkeypatch, capsys):
    def fail(project: ProjectStudy) -> Path:
        raise InputError('the disk is full')

    monkeypatch.setattr(compare_module, 'write', fail)
    for check in ('check_records', '_check_unchanged'):
        monkeypatch.setattr(compare_module, check, lambda *_, **__: None)
    assert in_process('compare')(recorded.folder) == 2
    said = capsys.readouterr()
    assert 'three seeds: CBAM is better.' in said.out and said.err == 'error: the disk is full\n'


def test_printed_command_has_the_file_that_a_shipped_config_is_written_to(recorded):
    row = replace(recorded.study.rows['CBAM'], config='faster_rcnn_r18_cbam_digits')
    rows = {**recorded.study.rows, 'CBAM': row}
    project = replace(recorded, study=replace(recorded.study, rows=rows))
    folder = project.work_dirs / run_name(project.study, row, 0)
    folder.mkdir(parents=True)
    (folder / 'epoch_5.pth').touch()
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_5.pth'))
    words = shlex.split(compare_module._predict_command(project))
    assert words[-2:] == [
        str(folder / 'faster_rcnn_r18_cbam_digits.py'),
        str(folder / 'epoch_5.pth'),
    ]


def test_only_runs_without_a_record_are_trained_seed_by_seed(recorded, monkeypatch, capsys):
    calls = []

    def run(study, row, seed, results, work_dirs, gpus):
        calls.append((row.name, seed))
        assert (results, work_dirs) == (recorded.results, recorded.work_dirs)
        measured = {'coco/bbox_mAP': 0.41, 'coco/bbox_mAP_50': 0.8}
        put_record(results, study, row, seed, metrics=measured)
        return read_record(results, study, row, seed)

    monkeypatch.setattr(compare_module.runs, 'run', run)
    for check in ('check_records', '_check_unchanged'):
        monkeypatch.setattr(compare_module, check, lambda *_, **__: None)
    monkeypatch.setattr(compare_module, 'run_seconds', lambda cfg, processes: 120)
    monkeypatch.setattr(compare_module.time, 'process_time', lambda: 0)
    monkeypatch.setattr(compare_module, 'write', lambda project: project.output / 'report.html')
    tool = in_process('compare')
    assert tool(recorded.folder, '--seeds', 5) == 0
    assert calls == [('baseline', 3), ('CBAM', 3), ('baseline', 4), ('CBAM', 4)]
    said = capsys.readouterr().out
    assert '4 trainings: about 8 min.' in said and 'training 4 of 4: CBAM, seed 4' in said
    assert 'five seeds' in said and said.rstrip().endswith('my digits/report.html')
    assert tool(recorded.folder) == 0 and len(calls) == 4
    assert 'all runs are recorded' in capsys.readouterr().out


def test_changed_config_or_annotations_are_refused_before_anything_runs(folder, capsys):
    project, tool = ProjectStudy.read(folder), in_process('compare')
    study, results = project.study, project.results
    for row, seed in study.runs():
        digits = dict(config_hash=config_hash(study, row, seed))
        put_record(results, study, row, seed, data=data_digits(study, row, seed, None), **digits)
    compare_module._check_unchanged(project)
    again = shlex.join(['rm', '-r', str(results), str(project.work_dirs)])
    config = folder / 'cbam.py'
    text = config.read_text()
    config.write_text(f'{text}\ntrain_cfg = dict(max_epochs=9)\n')
    study_module._read.cache_clear()
    assert tool(folder) == 2
    said = capsys.readouterr().err
    assert said.count('study.jsonl, ') == 3 and said.rstrip().endswith(again)
    config.write_text(text)
    study_module._read.cache_clear()
    change_record(results, study, study.rows['baseline'], 1, data=dict(train='0'))
    assert tool(folder) == 2
    assert 'changed since these runs were recorded: ' in (said := capsys.readouterr().err)
    assert said.count('study.jsonl, ') == 1


def test_quick_test_has_one_seed_few_steps_and_images_and_its_own_folder(
    digits, folder, monkeypatch
):
    monkeypatch.setattr('cbam_det.studies.project_study.FAST_IMAGES', 2)
    project = ProjectStudy.read(folder, fast=True)
    assert project.output == folder / 'fast'
    assert '4 training steps, at most 8 test images' in compare_page.warning(project)
    assert next_steps(project)[0][0].startswith('Run the comparison itself: `python ')
    for row in project.study.rows.values():
        assert list(row.seeds) == [0] and row.overrides['train_cfg.max_epochs'] == 1
        assert row.overrides['model.test_cfg.rcnn.score_thr'] == 0
    path = row.overrides['val_evaluator.ann_file']
    assert row.overrides['val_dataloader.dataset.ann_file'] == path
    part = json.loads(Path(path).read_text())
    whole = json.loads((digits / 'annotations' / 'instances_val2017.json').read_text())
    assert part['images'] == whole['images'][:2]
    kept = {image['id'] for image in part['images']}
    assert part['annotations'] == [x for x in whole['annotations'] if x['image_id'] in kept]


def test_quick_test_takes_images_with_objects_first(tmp_path):
    boxes = [dict(image_id=1, iscrowd=1), dict(image_id=3, iscrowd=0), dict(image_id=5)]
    whole = tmp_path / 'whole.json'
    whole.write_text(json.dumps(dict(images=[dict(id=n) for n in range(6)], annotations=boxes)))
    part = json.loads(project_study._part_of(whole, 3, tmp_path / 'part.json').read_text())
    assert part == dict(images=[dict(id=n) for n in (3, 5, 0)], annotations=boxes[1:])


def test_what_mmengine_logs_is_hidden_while_a_status_is_shown(capsys):
    logger = MMLogger.get_instance(f'quiet {id(capsys)}')  # is current, and writes to capsys
    with compare_module._quiet('timing a few steps'):
        logger.info('KaimingInit')
        logger.warning('attention that pretrained weights lack')
    logger.info('after it')
    out = capsys.readouterr().out
    assert 'KaimingInit' not in out and 'lack' not in out and 'after it' in out


@pytest.mark.parametrize('missing', ['data.py', 'study.yaml'])
def test_missing_file_is_named_with_the_command_that_makes_it(missing, folder, capsys):
    (folder / missing).unlink()
    assert in_process('compare')(folder) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'error: {folder} has no {missing}; make them from your images in DATA')
    assert error.endswith(f"init.py DATA --out '{folder}'\n") and error.count('\n') == 1


def test_folder_of_images_or_none_is_told_how_to_become_a_project(digits, tmp_path):
    with pytest.raises(InputError, match=rf'first make a project .*init\.py {digits}$'):
        ProjectStudy.read(digits)
    with pytest.raises(InputError, match=r'there is no folder .*absent; .* --out .*absent$'):
        ProjectStudy.read(tmp_path / 'absent')


def test_study_without_a_baseline_is_refused(folder):
    path = folder / 'study.yaml'
    path.write_text(path.read_text().replace(', against: baseline', ''))
    with pytest.raises(InputError, match=r'study\.yaml: no row has `against`; give one the name'):
        ProjectStudy.read(folder)


@pytest.mark.parametrize(
    ('options', 'said'),
    [(['--seeds', '0'], '--seeds 0 is less than 1'), (['--fast', '--seeds', '3'], 'one seed')],
)
def test_options_that_do_not_fit_are_refused(options, said, folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        in_process('compare').module.parse_args([str(folder), *options])
    assert stopped.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.slow
def test_quick_test_trains_both_and_says_that_it_proves_nothing(folder, run):
    said = run('compare.py', folder, '--fast', cwd=folder).stdout
    assert 'training 2 of 2: CBAM, seed 0' in said and 'proves nothing about attention' in said
    text = (folder / 'fast' / 'report.html').read_text(encoding='utf-8')
    assert 'class="warning">This was a quick test' in text
    titles = re.findall(r'<h2 id="s\d+">(.*?)</h2>', text)
    assert titles == [
        *('scores', 'curves', 'AP by size and class', 'training, seed 0', 'detections, seed 0'),
        *('attention of CBAM', 'Grad-CAM of CBAM and baseline', 'cost', 'what to try next'),
        *('config of CBAM against baseline', 'setup'),
    ]
    assert len(re.findall(r'src="data:image/', text)) == 5
    assert not (folder / 'report.html').exists()
    assert 'all runs are recorded' in run('compare.py', folder, '--fast', cwd=folder).stdout
