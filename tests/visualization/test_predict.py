"""Detections in pictures and videos: files that are read, written, skipped and reported."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from cbam_det.apis.inference import Predictor
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError
from cbam_det.visualization import predict as module
from cbam_det.visualization.predict import predict
from cbam_det.visualization.predict_files import find_inputs
from cbam_det.visualization.predict_tables import write_tables

from ..conftest import in_process
from .untrained import predictor


@pytest.fixture(scope='module')
def detector() -> Predictor:
    """An untrained detector, with scores near 0.1."""
    return predictor()


@pytest.fixture
def folder(digits: Path, tmp_path: Path) -> Path:
    """Two pictures, one with a non-ASCII name, a file that is not a picture, and a video."""
    root = tmp_path / 'in'
    (root / 'a b').mkdir(parents=True)
    first, second = sorted((digits / 'val2017').glob('*.jpg'))[:2]
    shutil.copy(first, root / 'one.jpg')
    shutil.copy(second, root / 'a b' / 'ünï.JPG')
    (root / 'bad.png').write_bytes(b'nothing')
    (root / 'notes.md').write_text('not a picture')
    video(root / 'clip.mp4', frames=5)
    return root


def video(path: Path, frames: int, height: int = 62, width: int = 90) -> None:
    random = np.random.default_rng(0)
    with av.open(str(path), 'w') as writer:
        stream = writer.add_stream('libx264', rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
        for _ in range(frames):
            picture = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
            writer.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
        writer.mux(stream.encode())


def test_all_files_of_a_folder_are_used_and_an_unreadable_one_is_reported(
    detector, folder, tmp_path, capsys
):
    out = tmp_path / 'out'
    Image.new('RGB', (1, 3000)).save(folder / 'narrow.png')
    summary = predict(detector, str(folder), out, score=0.0, batch_size=3)
    assert (summary.images, summary.unreadable) == (7, 2)  # two pictures and five frames
    said = capsys.readouterr().err
    assert f'{folder / "bad.png"} cannot be read' in said and 'narrow.png cannot be rea' in said
    coco = COCO(str(out / 'coco.json'))
    results = json.loads((out / 'results.json').read_text())
    assert len(coco.loadRes(str(out / 'results.json')).anns) == len(results) > 0
    names = {image['file_name'] for image in coco.imgs.values()}
    assert names == {'one.jpg', 'a b/ünï.JPG', *(f'clip.mp4#{k:06d}' for k in range(5))}
    assert [category['name'] for category in coco.cats.values()] == list(detector.classes)
    with (out / 'detections.csv').open(encoding='utf-8', newline='') as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(results) == summary.detections
    x1, y1, width, height = results[0]['bbox']
    assert float(rows[0]['x2']) == pytest.approx(x1 + width, abs=0.02)
    assert float(rows[0]['y2']) == pytest.approx(y1 + height, abs=0.02)


def test_video_that_is_too_narrow_for_the_pipeline_is_skipped(detector, tmp_path, capsys):
    video(tmp_path / 'narrow.mp4', frames=1, height=3000, width=2)
    summary = predict(detector, str(tmp_path / 'narrow.mp4'), tmp_path / 'out')
    assert (summary.images, summary.unreadable) == (0, 1)
    assert 'narrow.mp4 cannot be read (too narrow for the pipeline' in capsys.readouterr().err


def test_detections_are_those_of_the_predictor(detector, folder, tmp_path):
    predict(detector, str(folder / 'one.jpg'), tmp_path / 'out', score=0.0)
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    predictions = detector.predict(detector.prepare(folder / 'one.jpg'))
    assert len(results) == len(predictions)
    for result, prediction in zip(results, predictions, strict=True):
        assert result['category_id'] == prediction.label + 1
        assert result['score'] == pytest.approx(float(prediction.score), abs=1e-4)
        x1, y1, width, height = result['bbox']
        corners = [x1, y1, x1 + width, y1 + height]
        assert corners == pytest.approx(prediction.corners.tolist(), abs=0.05)


def test_video_is_written_as_h264_with_all_frames_and_attention(detector, folder, tmp_path):
    predict(detector, str(folder / 'clip.mp4'), tmp_path / 'out', attention=True, batch_size=2)
    with av.open(str(tmp_path / 'out' / 'drawn' / 'clip.mp4')) as reader:
        stream = reader.streams.video[0]
        assert stream.codec_context.name == 'h264' and float(stream.average_rate) == 10
        assert (stream.width, stream.height) == (2 * 90, 62)
        assert len(list(reader.decode(stream))) == 5


def test_second_call_detects_only_in_unfinished_pictures(detector, folder, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    predict(detector, str(folder), out)
    (out / 'drawn' / 'one.jpg').unlink()
    finished = out / module.FINISHED_FILE
    finished.write_text(finished.read_text()[:-20])  # the last line, of a frame, is incomplete
    (out / 'drawn' / 'clip.mp4').unlink()
    batch_sizes = []
    forward = module.Inferencer.__call__
    monkeypatch.setattr(
        module.Inferencer,
        '__call__',
        lambda self, pictures, **kwargs: (
            batch_sizes.append(len(pictures)) or forward(self, pictures, **kwargs)
        ),
    )
    assert predict(detector, str(folder), out).images == 7
    assert batch_sizes == [1]
    assert (out / 'drawn' / 'one.jpg').is_file() and (out / 'drawn' / 'clip.mp4').is_file()


def test_results_of_other_options_are_not_mixed(detector, folder, tmp_path):
    predict(detector, str(folder / 'one.jpg'), tmp_path / 'out')
    with pytest.raises(InputError, match='of another model or config, --score or'):
        predict(detector, str(folder / 'one.jpg'), tmp_path / 'out', score=0.5)


def test_results_of_another_file_with_the_same_name_are_not_taken(detector, folder, tmp_path):
    predict(detector, str(folder / 'one.jpg'), tmp_path / 'out')
    predict(detector, str(folder / 'clip.mp4'), tmp_path / 'out')
    for name in ('one.jpg', 'clip.mp4'):
        shutil.copy(folder / name, folder / 'a b')
        with pytest.raises(InputError, match=f'has the results of {folder}/{name}, which has the'):
            predict(detector, str(folder / 'a b' / name), tmp_path / 'out')
    assert predict(detector, str(folder / 'one.jpg'), tmp_path / 'out').images == 6


def test_a_file_is_not_listed_twice_under_two_names(detector, folder, tmp_path):
    picture = folder / 'a b' / 'ünï.JPG'
    predict(detector, str(picture), tmp_path / 'out')
    with pytest.raises(InputError, match=f'has the results of {picture} .* as ünï.JPG; give'):
        predict(detector, str(folder), tmp_path / 'out')
    assert predict(detector, str(picture), tmp_path / 'out').images == 1


def test_changed_files_are_detected_again_and_leave_no_old_frames(detector, folder, tmp_path):
    out = tmp_path / 'out'
    predict(detector, str(folder), out)
    drawn = (out / 'drawn/one.jpg').read_bytes()
    shutil.copy(folder / 'a b' / 'ünï.JPG', folder / 'one.jpg')
    video(folder / 'clip.mp4', frames=2)
    assert predict(detector, str(folder), out).images == 4  # two pictures and two frames
    entries = [json.loads(line) for line in (out / module.FINISHED_FILE).read_text().splitlines()]
    boxes = {entry['file']: entry['boxes'] for entry in entries[1:]}
    assert boxes['one.jpg'] == boxes['a b/ünï.JPG']
    assert (out / 'drawn/one.jpg').read_bytes() != drawn
    with av.open(str(out / 'drawn/clip.mp4')) as reader:
        assert len(list(reader.decode(video=0))) == 2


def test_results_of_a_changed_config_are_not_mixed(folder, tmp_path):
    detector = predictor()
    predict(detector, str(folder / 'one.jpg'), tmp_path / 'out')
    detector.cfg.model.test_cfg.rcnn.nms.iou_threshold = 0.9
    with pytest.raises(InputError, match='of another model or config'):
        predict(detector, str(folder / 'one.jpg'), tmp_path / 'out')


def test_damaged_video_leaves_no_frames_and_a_turned_one_is_upright(detector, folder, tmp_path):
    damaged = folder / 'clip.mp4'
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    summary = predict(detector, str(damaged), tmp_path / 'out')
    assert (summary.images, summary.unreadable) == (0, 1)
    with av.open(str(folder / 'turned.mp4'), 'w') as writer:
        stream = writer.add_stream('libx264', rate=10)
        stream.width, stream.height, stream.pix_fmt = 90, 62, 'yuv420p'
        stream.set_display_rotation(90)
        picture = np.zeros((62, 90, 3), dtype=np.uint8)
        picture[:, 45:] = 255  # the right half: turned counterclockwise by 90 degrees, the top
        writer.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
        writer.mux(stream.encode())
    predict(detector, str(folder / 'turned.mp4'), tmp_path / 'turned', score=1.0)
    with av.open(str(tmp_path / 'turned/drawn/turned.mp4')) as reader:
        (frame,) = (frame.to_ndarray(format='rgb24') for frame in reader.decode(video=0))
    assert frame.shape == (90, 62, 3)
    assert np.median(frame[:40]) > 200 > 50 > np.median(frame[50:])


def test_nothing_outside_the_results_is_overwritten(detector, folder, tmp_path):
    (folder / 'coco.json').write_text('{}')
    with pytest.raises(InputError, match=r'coco\.json exists, but .*give another folder'):
        predict(detector, str(folder), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        *('a b', 'bad.png', 'clip.mp4', 'coco.json', 'notes.md', 'one.jpg')
    ]
    (folder / 'coco.json').unlink()
    assert predict(detector, str(folder / '*.jpg'), folder).images == 1  # beside the pictures
    lists = tmp_path / 'lists'
    lists.mkdir()
    (lists / 'list.txt').write_text(f'../in/one.jpg\n../../{tmp_path.name}/lists/two.jpg\n')
    shutil.copy(folder / 'one.jpg', lists / 'two.jpg')
    predict(detector, str(lists / 'list.txt'), tmp_path / 'out')
    drawn = sorted((tmp_path / 'out').rglob('*.jpg'))
    assert drawn == [tmp_path / f'out/drawn/{name}' for name in ('in/one.jpg', 'lists/two.jpg')]


def test_folder_that_cannot_be_written_and_equal_drawings_are_one_line(detector, folder, tmp_path):
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(InputError, match=r'file/out cannot be written .* another folder'):
        predict(detector, str(folder / 'one.jpg'), tmp_path / 'file/out')
    for name in ('x.tif', 'x.tif.jpg'):
        shutil.copy(folder / 'one.jpg', folder / name)
    with pytest.raises(InputError, match=r'x\.tif, .*x\.tif\.jpg would have the same name'):
        predict(detector, str(folder), tmp_path / 'out')


def test_full_disk_in_a_video_is_not_a_fault_of_the_video(detector, folder, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise av.error.FFmpegError(errno.ENOSPC, 'write')

    monkeypatch.setattr(module.Run, 'draw', fail)
    with pytest.raises(InputError, match=r'cannot be written .*No space left on device'):
        predict(detector, str(folder / 'clip.mp4'), tmp_path / 'out')


def test_name_that_is_not_utf8_is_in_the_tables(detector, tmp_path):
    name = os.fsdecode(b'\xff.jpg')
    entry = dict(file=name, width=9, height=8, labels=[0], scores=[0.5], boxes=[[1, 2, 3, 4]])
    write_tables(tmp_path, [entry], detector)
    content = json.loads((tmp_path / 'coco.json').read_text(encoding='utf-8'))
    assert content['images'] == [dict(id=1, file_name=name, width=9, height=8)]
    assert '\\udcff.jpg,zero,0.5,1,2,3,4' in (tmp_path / 'detections.csv').read_text()


def test_files_of_other_kinds_in_a_folder_are_counted(folder, capsys):
    (folder / 'x.HEIC').touch()
    (folder / 'folder.jpg').mkdir()
    assert len(find_inputs(str(folder), announce=True)) == 4
    assert 'files that are not read: .md (1), .heic (1)' in capsys.readouterr().err


def test_results_inside_the_input_folder_are_not_read(detector, folder):
    first = predict(detector, str(folder), folder / 'out')
    assert predict(detector, str(folder), folder / 'out').images == first.images == 7


def test_pictures_are_given_by_a_pattern_or_a_list(folder, tmp_path):
    assert find_inputs(f'{folder}/**/*.JPG') == [folder / 'a b' / 'ünï.JPG']
    (folder / 'list.txt').write_text('one.jpg\na b/ünï.JPG\n\none.jpg\n', encoding='utf-8')
    assert find_inputs(str(folder / 'list.txt')) == [folder / 'one.jpg', folder / 'a b' / 'ünï.JPG']


@pytest.mark.parametrize(
    ('source', 'words'),
    [
        ('missing.jpg', 'missing.jpg does not exist; give an image, a video or a folder'),
        ('notes.md', 'notes.md is not an image or a video'),
        ('*.tiff', 'has no image or video'),
        ('empty', 'has no image or video'),
        ('latin.txt', 'latin.txt is not valid UTF-8'),
    ],
)
def test_input_without_pictures_is_one_line(source, words, folder, capsys):
    (folder / 'empty').mkdir()
    (folder / 'empty.pth').touch()
    (folder / 'latin.txt').write_bytes(b'\xe9.jpg\n')
    tool = in_process('predict')
    assert tool(folder / source, 'faster_rcnn_r18_cbam_digits', folder / 'empty.pth') == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize('order', [None, 'channel'])
def test_attention_of_a_model_without_spatial_gates_is_refused(order, folder, tmp_path):
    """The folder is not marked as one with attention: the option can be left out."""
    name, options = 'faster_rcnn_r50_digits', None
    if order:
        name = 'faster_rcnn_r50_cbam_digits'
        options = {'model.backbone.plugins.0.cfg.order': order}
    detector = predictor(name, options)
    with pytest.raises(InputError, match='--attention: this model has no CBAM with a spatial'):
        predict(detector, str(folder), tmp_path / 'out', attention=True)
    assert not (tmp_path / 'out').exists()


def test_classifier_is_refused(folder, tmp_path):
    pytest.importorskip('mmpretrain')
    classifier = Predictor(read_config('tiny_imagenet/resnet18_half', announce=False))
    with pytest.raises(InputError, match='resnet18_half is not a detector; for a classifier, use'):
        predict(classifier, str(folder), tmp_path / 'out')
