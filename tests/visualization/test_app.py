"""The page in the browser: what its controls show, and that nothing of a picture is kept."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from PIL import Image

from cbam_det.apis.inference import Predictor
from cbam_det.utils.errors import InputError
from cbam_det.visualization import app
from cbam_det.visualization.app import Page, serving
from cbam_det.visualization.cells import attention_cells, gradcam_cells
from tools import app as tool

from ..conftest import ROOT, free_port
from .untrained import predictor

pytestmark = pytest.mark.usefixtures('one_thread')
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
BROWSER = SimpleNamespace(session_hash='one')


@pytest.fixture(autouse=True)
def _log_files() -> Iterator[None]:
    """Take away the log files of earlier tests that uvicorn closes when it sets up its own logs."""
    yield
    for logger in MMLogger._instance_dict.values():
        logger.handlers = [log for log in logger.handlers if getattr(log, 'stream', log)]


@pytest.fixture(scope='module')
def models() -> list[Predictor]:
    """With CBAM and without; untrained, with scores of 0.17 to 0.5."""
    return [predictor('faster_rcnn_r18_cbam_digits'), predictor('faster_rcnn_r18_digits')]


@pytest.fixture
def page(models, tmp_path) -> Page:
    return Page(models, tmp_path / 'cache')


def upload(page: Page, content: bytes, name: str = 'photo.png') -> dict:
    """A file as Gradio puts it into the folder and describes it to the page."""
    path = page.folder / 'abc' / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return dict(path=str(path), orig_name=name)


def drop(
    page: Page, content: bytes, name: str = 'photo.png', score: float = 0.0
) -> SimpleNamespace:
    parts = page.show_upload(upload(page, content, name), score, BROWSER)
    names = ('file', 'message', 'layer', 'detections', 'attention', 'gradcam')
    return SimpleNamespace(**dict(zip(names, parts, strict=True)))


def boxes(html: str) -> dict[tuple[int, int], list[float]]:
    """(place, index) -> x, y, width, height of each box that can be clicked, in their order."""
    numbers = ' '.join(f'{name}="(.*?)"' for name in ('x', 'y', 'width', 'height'))
    pattern = rf'<rect [^>]*data-place="(\d+)" data-index="(\d+)" [^>]*{numbers}/>'
    found = re.findall(pattern, html)
    return {(int(row[0]), int(row[1])): list(map(float, row[2:])) for row in found}


def click(page: Page, place: int, index: int) -> str:
    return page.show_gradcam(gr.EventData(None, dict(place=place, index=index)), BROWSER)


def test_threshold_shows_the_detections_with_that_score_or_more(page, photo):
    shown = drop(page, Path(photo).read_bytes(), score=0.0)
    views = page.results['one']
    scores = [[float(row.score) for row in view.predictions] for view in views]
    assert all(len(row) > 3 for row in scores)
    middle = scores[0][len(scores[0]) // 2]
    counts = []
    for html, score in (
        (shown.detections, 0.0),
        (page.show_detections(middle, BROWSER), middle),
        (page.show_detections(1.0, BROWSER), 1.0),
    ):
        expected = [sum(value >= score for value in row) for row in scores]
        places = [place for place, _ in boxes(html)]
        assert [places.count(place) for place in (0, 1)] == expected
        assert f'{expected[0]} of {len(scores[0])} detections' in html
        counts.append(expected[0])
    assert counts[0] > counts[1] > counts[2] == 0


def test_each_box_carries_its_detection_and_small_boxes_are_on_top(page, photo):
    shown = boxes(drop(page, Path(photo).read_bytes()).detections)
    for (place, index), (x, y, width, height) in shown.items():
        corners = page.results['one'][place].predictions[index].corners
        assert [x, y, x + width, y + height] == pytest.approx(corners.tolist(), abs=0.16)
    for place in (0, 1):
        areas = [box[2] * box[3] for key, box in shown.items() if key[0] == place]
        assert areas == pytest.approx(sorted(areas, reverse=True), rel=0.05, abs=2)


def test_click_explains_that_detection_and_its_match_in_the_other_model(page, photo):
    drop(page, Path(photo).read_bytes())
    views = page.results['one']
    for place, index in (0, 2), (1, 1):
        wanted = views[place].predictions[index]
        title, cells = gradcam_cells(views, place, index)
        assert title.startswith(
            f'Grad-CAM of {views[place].explainer.predictor.name_of(wanted.label)}'
        )
        assert cells[place].boxes.boxes.tolist() == [wanted.corners.tolist()]
        assert f'score {float(wanted.score):.3f}' in cells[place].title
        assert cells[place].heat.max() == 1 and cells[place].heat.shape == (80, 120)
        assert title in click(page, place, index)


def test_model_that_does_not_find_the_detection_says_so(page, photo):
    drop(page, Path(photo).read_bytes())
    page.results['one'][1].predictions = []
    html = click(page, 0, 0)
    assert html.count('<svg') == 2 and 'not detected' in html


def test_attention_is_shown_by_the_names_of_the_modules(page, photo):
    layer = drop(page, Path(photo).read_bytes()).layer
    names = [name for name, _ in layer.choices]
    assert names[0] == 'layer1.0.bn2' and names[-1] == layer.value == 'layer4.1.bn2'
    assert len(names) == 8
    start, baseline = attention_cells(page.results['one'], names[0])
    assert start.heat is None and 'spatial weights 1.000 everywhere' in start.title
    assert 'channel weights 1.000 to 1.000' in start.title
    assert baseline.heat is None and baseline.title.endswith('\nno CBAM')


def test_attention_fades_with_its_range(page, photo):
    drop(page, Path(photo).read_bytes())
    view = page.results['one'][0]
    ramp = np.linspace(0, 1, 120 * 80, dtype=np.float32).reshape(80, 120)
    view.gates['layer1.0.bn2'].spatial = 0.5 + ramp
    view.gates['layer2.0.bn2'].spatial = 1 + ramp / 4
    for name, peak, words in (
        ('layer1.0.bn2', 1, '0.500 to 1.500'),
        ('layer2.0.bn2', 0.25, '1.000 to 1.250'),
    ):
        (cell,) = attention_cells([view], name)
        assert f'spatial weights {words}' in cell.title
        assert cell.heat.min() == 0 and cell.heat.max() == pytest.approx(peak)


def test_names_of_files_and_classes_are_text_not_html(page, photo, monkeypatch):
    monkeypatch.setattr(page.explainers[0].predictor, 'classes', ('<b>&',) * 10)
    shown = drop(page, Path(photo).read_bytes(), name='<i>.png')
    assert '&lt;b&gt;&amp;' in shown.detections and '<b>' not in shown.detections
    assert '&lt;i&gt;.png, 120 x 80' in shown.message


def blank_png(side: int) -> bytes:
    """A picture of `side` x `side` pixels, which are few bytes."""
    stream = io.BytesIO()
    Image.new('1', (side, side)).save(stream, 'PNG')
    return stream.getvalue()


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'', 'photo.png cannot be read as an image; give one of JPEG, PNG'),
        (b'nothing', 'photo.png cannot be read as an image'),
        (b'GIF89a' + b'\x01\x00\x01\x00' + bytes(20), 'photo.png cannot be read as an image'),
        (blank_png(9000), 'photo.png has over 50 million pixels'),
        (blank_png(14000), 'photo.png has over 50 million pixels'),
    ],
    ids=['empty', 'text', 'GIF', 'large', 'bomb'],
)
def test_picture_that_cannot_be_read_is_a_message(page, content, words):
    page.results['one'] = []  # of the picture before
    shown = drop(page, content)
    assert words in shown.message and 'role="alert"' in shown.message
    assert str(page.folder) not in shown.message
    assert shown.detections == shown.attention == shown.gradcam == '' and not shown.layer.visible
    assert not page.results and not list(page.folder.iterdir())


def test_damaged_picture_is_a_message(page, photo):
    content = Path(photo).read_bytes()
    shown = drop(page, content[:60] + bytes(len(content) - 60))
    assert 'photo.png cannot be read as an image' in shown.message


@pytest.mark.parametrize('size', [(1, 3000), (3000, 1)])
def test_picture_that_the_pipeline_cannot_resize_is_a_message(page, size):
    stream = io.BytesIO()
    Image.new('RGB', size).save(stream, 'PNG')
    assert 'photo.png is too narrow for the pipeline' in drop(page, stream.getvalue()).message


def test_nothing_of_a_picture_is_kept(page, photo):
    assert drop(page, Path(photo).read_bytes()).file is None
    assert not list(page.folder.iterdir()) and list(page.results) == ['one']
    page.close(BROWSER)  # the browser's page is closed
    assert not page.results
    assert page.show_detections(0.0, BROWSER) == page.show_attention(None, BROWSER) == ''
    assert click(page, 0, 0) == ''


def test_pictures_of_few_pages_are_in_memory(page, photo, monkeypatch):
    monkeypatch.setattr(app, 'MAX_PAGES', 2)
    monkeypatch.setattr(page, 'explainers', page.explainers[:1])
    for name in 'abc':
        page.show_upload(
            upload(page, Path(photo).read_bytes()), 0.3, SimpleNamespace(session_hash=name)
        )
    assert list(page.results) == ['b', 'c']


def test_file_that_was_not_uploaded_is_not_read_or_deleted(page, photo):
    for path in photo, str(page.folder / 'file'), str(page.folder / 'a' / '..' / '..' / 'file'):
        with pytest.raises(gr.Error, match='not an uploaded file'):
            page.show_upload(dict(path=path, orig_name='x.png'), 0.3, BROWSER)
    assert Path(photo).is_file()


def test_only_detectors_of_the_same_classes_share_a_page(models, tmp_path):
    other = SimpleNamespace(name='other', classes=('cat',), model=models[0].model)
    with pytest.raises(InputError, match='the classes of other differ from those of'):
        Page([models[0], other], tmp_path)
    classifier = SimpleNamespace(name='resnet', classes=(), model=torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match='resnet is not a detector'):
        Page([classifier], tmp_path)


def test_page_is_served_from_a_private_folder_without_other_hosts(models, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    monkeypatch.setenv('HTTP_PROXY', 'http://127.0.0.1:9')  # which does not answer
    with serving(models[:1], '127.0.0.1', port := free_port()) as url:
        folder = Path(os.environ['GRADIO_TEMP_DIR'])
        assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
        open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        text = open_url(url).read().decode()
        assert 'Drop an image to begin' in text
        assert not re.findall(r'(?:src|href)="https?://', text)
        with (
            pytest.raises(InputError, match=f'127.0.0.1:{port} is in use; give another --port'),
            serving(models[:1], '127.0.0.1', port),
        ):
            pass
        boundary, size = 'x' * 20, (app.MAX_MEGABYTES << 20) + 1
        head = 'Content-Disposition: form-data; name="files"; filename="a.png"'
        body = f'--{boundary}\r\n{head}\r\n\r\n'.encode() + bytes(size)
        request = urllib.request.Request(
            f'{url}gradio_api/upload',
            body + f'\r\n--{boundary}--\r\n'.encode(),
            {'Content-Type': f'multipart/form-data; boundary={boundary}'},
        )
        with pytest.raises(urllib.error.HTTPError, match='413'):
            open_url(request)
        assert not [file for file in folder.rglob('*') if file.is_file()]
    assert not folder.exists()


def test_tool_says_what_is_missing_before_it_imports_torch(tmp_path, capsys, monkeypatch):
    checkpoint = tmp_path / 'there.pth'
    checkpoint.touch()
    pair = ['faster_rcnn_r18_digits', str(checkpoint)]
    with socket.create_server(('127.0.0.1', 0)) as taken:
        for arguments, words in (
            ([pair[0], 'none.pth'], 'error: the checkpoint none.pth does not exist'),
            (
                [*pair, '--against', pair[0], 'none.pth'],
                'error: the checkpoint none.pth does not exist',
            ),
            ([*pair, '--port', str(taken.getsockname()[1])], 'Address already in use'),
            ([*pair, '--port', '70000'], 'error: --host 127.0.0.1 --port 70000: '),
        ):
            with pytest.raises(SystemExit) as end:
                tool.parse_args(arguments)
            said = capsys.readouterr().err
            assert end.value.code == 2 and words in said and said.count('\n') == 1
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(SystemExit):
        tool.parse_args(pair)
    assert "pip install 'gradio>=6.31,<7'" in capsys.readouterr().err


# Drops a file, given by its name and bytes, where people drop it.
DROP = """([name, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(bytes)], name, {type: 'image/png'}));
  const target = document.querySelector('input[type=file]').closest('button');
  target.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true}));
}"""


@pytest.fixture
def served(models, tmp_path) -> Iterator[str]:
    """The URL of the tool's page; the tool ends well, and leaves no file."""
    arguments = []
    for model in models:
        path = tmp_path / f'{model.name}.pth'
        torch.save(dict(state_dict=model.model.state_dict()), path)
        arguments += [model.name, str(path), '--against']
    command = [sys.executable, str(ROOT / 'tools/app.py'), *arguments[:-1]]
    (tmp_path / 'tmp').mkdir()
    process = subprocess.Popen(
        [*command, '--port', str(free_port())],
        stdout=subprocess.PIPE,
        env={**os.environ, 'TMPDIR': str(tmp_path / 'tmp'), 'OMP_NUM_THREADS': '1'},
        text=True,
        cwd=tmp_path,
    )
    try:
        lines = iter(process.stdout.readline, '')
        yield next(line for line in lines if 'shows the page' in line).split()[0]
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(120)
        process.stdout.close()
    assert status == 128 + signal.SIGTERM
    assert not [file for file in (tmp_path / 'tmp').rglob('*') if file.is_file()]
    assert {file.name for file in tmp_path.iterdir()} == {
        'tmp',
        *(f'{model.name}.pth' for model in models),
    }


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason='Chromium is not installed')
def test_drop_threshold_and_click_in_a_browser_without_an_error(served, models, photo):
    sync_api = pytest.importorskip('playwright.sync_api')
    found = [model.predict(model.prepare(photo)) for model in models]
    faults = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.on('console', lambda row: row.type == 'error' and faults.append(row.text))
        page.on('pageerror', lambda error: faults.append(str(error)))
        page.on('response', lambda answer: answer.status >= 400 and faults.append(answer.url))
        own = (served, 'data:', 'blob:')
        page.on(
            'request', lambda request: request.url.startswith(own) or faults.append(request.url)
        )
        page.goto(served)
        page.get_by_text('Drop an image to begin').wait_for()

        page.evaluate(DROP, ['bad.png', list(b'nothing')])
        page.get_by_text('bad.png cannot be read as an image').wait_for()
        assert not page.locator('svg[viewBox="0 0 120 80"]').count()

        page.evaluate(DROP, ['photo.png', list(Path(photo).read_bytes())])
        page.get_by_text('photo.png, 120 x 80').wait_for()
        for threshold in 0.2, 0.25, 1.0, 0.24:
            page.get_by_role('spinbutton').fill(str(threshold))
            page.get_by_role('spinbutton').press('Enter')
            for place, rows in enumerate(found):
                shown = sum(float(row.score) >= threshold for row in rows)
                page.get_by_text(f'{shown} of {len(rows)} detections').nth(0).wait_for()
                assert page.locator(f'rect[data-place="{place}"]').count() == shown

        page.get_by_text('layer2.0.bn2').click()
        page.get_by_role('heading', name='Attention layer2.0.bn2').wait_for()
        # The one on top, which no other box covers.
        box = page.locator('rect[data-place="1"]').last
        clicked = found[1][int(box.get_attribute('data-index'))]
        box.click()
        page.get_by_role('heading', name=f'of {models[1].name_of(clicked.label)}, at').wait_for()
        page.get_by_text(f'score {float(clicked.score):.3f}').first.wait_for()
        browser.close()
    assert not faults
