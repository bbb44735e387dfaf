"""Names in all scripts in pictures: fonts are found for them, and formulas are off."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager, rcParams
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

from cbam_det.visualization import figures, fonts
from cbam_det.visualization.figures import Boxes, Cell, pixels, sheet
from cbam_det.visualization.precision import Precision, precisions

GLYPHS = {
    '猫': 100,
    '狗': 400,
}  # two characters that the default font does not have, with different widths


@pytest.fixture
def list_of_fonts(monkeypatch):
    """matplotlib's list of fonts with the default fonts only, restored after the test."""
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', _default_fonts())
    monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: [])


def _default_fonts() -> list:
    known = font_manager.fontManager.ttflist
    return [font for font in known if font.name.startswith(('DejaVu', 'Last Resort'))]


def make_font(path: Path, glyphs: dict[str, int] = GLYPHS) -> str:
    """A font with a box for each character, with the given width in thousandths."""
    names = ['.notdef', *(f'uni{ord(char):04X}' for char in glyphs)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(char): f'uni{ord(char):04X}' for char in glyphs})
    outlines = {}
    for name, width in zip(names, [500, *glyphs.values()], strict=True):
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, 700), (width, 700), (width, 0)):
            pen.lineTo(corner)
        pen.closePath()
        outlines[name] = pen.glyph()
    builder.setupGlyf(outlines)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable(dict(familyName='Boxes of a test', styleName='Regular'))
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(path)
    return str(path)


def page(*titles: str) -> figures.Figure:
    picture = np.zeros((40, 60, 3), np.uint8)
    box = np.array([[5.0, 5, 30, 30]])
    return sheet([[Cell(picture, Boxes(box, [title], ['red']), title) for title in titles]])


def test_a_font_with_the_characters_is_found_and_used_in_the_picture(
    list_of_fonts, tmp_path, capsys, monkeypatch
):
    font = make_font(tmp_path / 'boxes.ttf')
    # Installed after matplotlib made its list of fonts, as after following the remedy.
    monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: [font])
    assert fonts.find_fonts('猫 and 狗') == (['Boxes of a test'], '')
    narrow, wide = (pixels(page(name)) for name in '猫狗')
    assert (narrow != wide).any() and capsys.readouterr().err == ''


def test_characters_without_a_font_give_one_warning_with_the_package(list_of_fonts, capsys):
    assert fonts.find_fonts('cat') == ([], '')
    assert fonts.find_fonts('قطة') == ([], '')  # DejaVu has the letters
    pixels(page('猫', '狗'))
    warning = 'no installed font has 狗 猫: they are drawn as squares; install a font: '
    assert capsys.readouterr().err == f'{warning}apt-get install fonts-noto-cjk\n'
    assert 'fonts-noto-core' in fonts.without_font('\u0e01') and 'symbola' in fonts.without_font(
        '🐈'
    )


def test_dollar_signs_and_escapes_of_names_are_drawn_as_they_are(tmp_path):
    figure = page('$1_to_$5', 'a\x1b[31m')
    texts = [text for text in figure.findobj(figures.plt.Text) if text.get_text()]
    assert {text.get_text() for text in texts} == {'$1_to_$5', 'a\x1b[31m'}
    assert not any(text.get_parse_math() for text in texts)
    figures.save(figure, tmp_path / 'page.png')
    assert r'a\x1b[31m' in {text.get_text() for text in texts}
    lines = {'$a_$': np.ones((2, 101))}
    pixels(precisions([Precision('$1_to_$5 (3 objects)', lines)]))


def draw_by_mmdet(*classes: str) -> np.ndarray:
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = dict(classes=classes, palette='random')
    sample = DetDataSample()
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[5.0, 5, 30, 30]] * len(classes)),
        labels=torch.arange(len(classes)),
        scores=torch.ones(len(classes)),
    )
    picture = np.zeros((40, 60, 3), np.uint8)
    visualizer.add_datasample('picture', picture, sample, draw_gt=False)
    return visualizer.get_image()


@pytest.mark.parametrize('latin', [True, False])
def test_mmdet_draws_the_names_with_one_font(latin, list_of_fonts, tmp_path, monkeypatch, capsys):
    glyphs = GLYPHS | dict.fromkeys(string.printable * latin, 500)
    font = make_font(tmp_path / 'boxes.ttf', glyphs)
    monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: [font])
    before = rcParams['font.sans-serif']
    with fonts.names_in_pictures(['猫', '$1_to_$5']):
        assert (rcParams['font.sans-serif'][0] == 'Boxes of a test') == latin
        assert rcParams['text.parse_math'] is False
        drawn = draw_by_mmdet('猫', '$1_to_$5')
    assert drawn.shape == (40, 60, 3) and drawn.any()
    # A font without the digits of the scores is not used.
    assert ('apt-get install fonts-noto-cjk' in capsys.readouterr().err) == (not latin)
    assert rcParams['font.sans-serif'] == before
