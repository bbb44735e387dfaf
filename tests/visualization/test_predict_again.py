"""Detections in pictures and videos: what a second call keeps, and configs of other forms."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from mmdet.datasets.transforms import PackDetInputs
from mmengine.config import ConfigDict

from cbam_det.apis.inference import Predictor
from cbam_det.datasets.layouts.files import PROJECT_FILES
from cbam_det.utils.errors import InputError
from cbam_det.visualization import predict as module
from cbam_det.visualization.attention import Gates
from cbam_det.visualization.predict import predict
from cbam_det.visualization.predict_files import find_inputs

from .test_predict import video
from .untrained import predictor


@pytest.fixture(scope='module')
def detector() -> Predictor:
    """An untrained detector, with scores near 0.1."""
    return predictor()


@pytest.fixture
def folder(digits: Path, tmp_path: Path) -> Path:
    """Two pictures in the same subfolder."""
    (tmp_path / 'in/a').mkdir(parents=True)
    for number, file in enumerate(sorted((digits / 'val2017').glob('*.jpg'))[:2]):
        shutil.copy(file, tmp_path / f'in/a/{number}.jpg')
    return tmp_path / 'in'


def test_results_of_a_file_that_is_away_are_kept(detector, folder, tmp_path):
    out, files = tmp_path / 'out', tmp_path / 'files.txt'
    files.write_text('in/a/0.jpg\nin/a/1.jpg\n')
    predict(detector, str(files), out, score=0.0)
    results = (out / 'results.json').read_bytes()
    (folder / 'a/0.jpg').rename(tmp_path / 'away.jpg')
    assert predict(detector, str(files), out, score=0.0).images == 2
    assert (out / 'results.json').read_bytes() == results
    assert (out / 'drawn/0.jpg').is_file()


def test_folder_with_new_subfolders_keeps_the_names_of_its_files(detector, folder, tmp_path):
    assert predict(detector, str(folder), tmp_path / 'out').images == 2
    (folder / 'b').mkdir()
    shutil.copy(folder / 'a/0.jpg', folder / 'b')
    assert predict(detector, str(folder), tmp_path / 'out').images == 3
    drawn = {str(file.relative_to(tmp_path / 'out/drawn')) for file in tmp_path.rglob('drawn/*/*')}
    assert drawn == {'a/0.jpg', 'a/1.jpg', 'b/0.jpg'}


def test_video_that_is_drawn_but_not_in_the_results_is_detected_again(detector, tmp_path):
    video(tmp_path / 'clip.mp4', frames=2)
    predict(detector, str(tmp_path / 'clip.mp4'), tmp_path / 'out')
    finished = tmp_path / 'out' / module.FINISHED_FILE
    finished.write_text(finished.read_text().splitlines(keepends=True)[0])
    assert predict(detector, str(tmp_path / 'clip.mp4'), tmp_path / 'out').images == 2


def test_attention_is_that_over_the_image_without_that_over_regions(
    detector, folder, tmp_path, monkeypatch
):
    maps = {
        'backbone.layer1.0.cbam': np.linspace(0, 1, 64).reshape(1, 8, 8),
        'roi_head.bbox_head.cbam': np.full((1, 7, 7), 0.9),
    }
    passes = [Gates(name, None, spatial, identity=False) for name, spatial in maps.items()]
    monkeypatch.setattr(module, 'gates', lambda *_: passes)
    drawn = []
    for number in (1, 2):
        predict(detector, str(folder / 'a/0.jpg'), tmp_path / str(number), attention=True)
        drawn.append((tmp_path / f'{number}/drawn/0.jpg').read_bytes())
        passes[1:] = []
    assert drawn[0] == drawn[1]


def test_sound_without_pictures_is_skipped_and_a_fault_of_ours_is_raised(
    detector, tmp_path, monkeypatch
):
    sound, clip = tmp_path / 'sound.mp4', tmp_path / 'clip.mp4'
    with av.open(str(sound), 'w') as writer:
        stream = writer.add_stream('aac', rate=8000, layout='mono')
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
        frame.sample_rate = 8000
        writer.mux([*stream.encode(frame), *stream.encode()])
    assert predict(detector, str(sound), tmp_path / 'out').unreadable == 1
    video(clip, frames=1)
    monkeypatch.setattr(module.Run, 'draw', lambda *_: [][0])
    with pytest.raises(IndexError):
        predict(detector, str(clip), tmp_path / 'out')


def test_joined_test_sets_classes_as_types_and_no_visualizer_are_read(folder, tmp_path):
    detector = predictor()
    predict(detector, str(folder), tmp_path / 'plain', score=0.0)
    dataset = detector.cfg.test_dataloader.dataset
    dataset.pipeline[-1].type = PackDetInputs
    detector.cfg.test_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=[dataset])
    detector.cfg.pop('visualizer')
    predict(detector, str(folder), tmp_path / 'joined', score=0.0)
    plain, joined = (
        json.loads((tmp_path / name / 'results.json').read_text()) for name in ('plain', 'joined')
    )
    assert plain == joined != []


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda cfg: cfg.pop('test_dataloader'), 'has no test_dataloader; add one'),
        (
            lambda cfg: cfg.test_dataloader.dataset.pipeline.pop(0),
            'has no LoadImageFromFile, which is replaced',
        ),
    ],
)
def test_config_without_a_pipeline_that_reads_images_is_one_line(change, words, folder, tmp_path):
    detector = predictor()
    change(detector.cfg)
    with pytest.raises(InputError, match=words):
        predict(detector, str(folder), tmp_path / 'out')


def test_linked_folders_are_read_and_hidden_files_of_macos_are_not(folder, tmp_path, monkeypatch):
    (tmp_path / 'in').rename(tmp_path / 'photos')
    folder.mkdir()
    (folder / 'link').symlink_to(tmp_path / 'photos')
    (tmp_path / 'photos/a/back').symlink_to(folder)
    (folder / '._x.jpg').touch()
    for name in PROJECT_FILES:
        (folder / name).touch()
    assert find_inputs(str(folder)) == [folder / f'link/a/{number}.jpg' for number in (0, 1)]

    def closed(path: str) -> None:
        raise PermissionError(errno.EACCES, 'Permission denied', str(path))

    monkeypatch.setattr(os, 'scandir', closed)
    with pytest.raises(InputError, match=rf'{folder} cannot be read \(Permission denied\); give'):
        find_inputs(str(folder))
