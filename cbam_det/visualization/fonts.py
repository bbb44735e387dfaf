"""Choose fonts for the texts of figures, so that characters of all scripts are drawn.

`figures.STYLE` turns formulas off, because names of classes and files can contain dollar signs.
"""

from __future__ import annotations

import contextlib
import functools
import string
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from matplotlib import font_manager, rc_context, rcParams
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from ..utils.errors import print_stderr, printable

DEFAULT = 'sans-serif'
PLACEHOLDERS = 'Last Resort'  # matplotlib's fallback font, which draws squares
# Beginnings of the Unicode names of characters in Debian's package fonts-noto-cjk.
CJK = ('CJK', 'HIRAGANA', 'KATAKANA', 'HANGUL', 'BOPOMOFO', 'IDEOGRAPHIC', 'FULLWIDTH')


@contextlib.contextmanager
def every_glyph(figure: Figure) -> Iterator[None]:
    """Give the texts of `figure` fonts for all their characters; draw it inside this context.

    Control characters are shown as escapes. If no installed font has a character, a square is
    drawn, and a warning names the package to install.
    """
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    for text in texts:
        text.set_text(printable(text.get_text()))
    families, missing = find_fonts(''.join(text.get_text() for text in texts))
    if families:
        for text in texts:
            text.set_fontfamily([DEFAULT, *families])
    with _without_glyphs(missing):
        yield


@contextlib.contextmanager
def names_in_pictures(names: Iterable[str]) -> Iterator[None]:
    """Let mmdet draw these class names inside the context; it uses one font for all text."""
    wanted = _visible(''.join(names) + string.printable)  # mmdet adds the scores
    missing = wanted - _characters(findfont(FontProperties(family=[DEFAULT])))
    fonts = list(rcParams['font.sans-serif'])
    if missing:
        _add_new_fonts()
        if best := _best_font(wanted):
            fonts.insert(0, best.name)
            missing = wanted - _characters(best.fname)
    with (
        rc_context({'text.parse_math': False, 'font.sans-serif': fonts}),
        _without_glyphs(''.join(sorted(missing))),
    ):
        yield


@contextlib.contextmanager
def _without_glyphs(missing: str) -> Iterator[None]:
    with warnings.catch_warnings():
        if missing:
            print_stderr(without_font(missing))
            warnings.filterwarnings('ignore', 'Glyph .* missing from font')
        yield


def find_fonts(text: str) -> tuple[list[str], str]:
    """Find installed fonts for the characters of `text` that the default font does not have.

    Returns:
        The names of font families, the one with the most characters first; and the characters that
        no font has.
    """
    wanted = _visible(text)
    missing = wanted - _characters(findfont(FontProperties(family=[DEFAULT])))
    if not missing:
        return [], ''
    families = _families(missing)
    if missing and _add_new_fonts():
        families += _families(missing)
    return families, ''.join(sorted(missing))


def without_font(missing: str) -> str:
    """The warning for characters that no font has."""
    packages = dict.fromkeys(map(_package, missing))
    shown = ' '.join(missing[:10]) + ' ...' * (len(missing) > 10)
    return (
        f'no installed font has {shown}: they are drawn as squares; install a font: '
        f'apt-get install {" ".join(packages)}'
    )


def _visible(text: str) -> set[str]:
    return {char for char in text if char.isprintable() and not char.isspace()}


def _best_font(wanted: set[str]) -> font_manager.FontEntry | None:
    """The font with most of the characters `wanted`; None if no font has any."""
    fonts = [
        font
        for font in font_manager.fontManager.ttflist
        if font.style == 'normal' and not font.name.startswith(PLACEHOLDERS)
    ]
    best = max(fonts, key=lambda font: len(wanted & _characters(font.fname)), default=None)
    return best if best and wanted & _characters(best.fname) else None


def _families(missing: set[str]) -> list[str]:
    """Font families with characters of `missing`, from which these are removed."""
    families = []
    while missing and (best := _best_font(missing)):
        families.append(best.name)
        missing -= _characters(best.fname)
    return families


def _add_new_fonts() -> bool:
    """Register fonts that matplotlib does not know yet; returns whether there are any."""
    known = {font.fname for font in font_manager.fontManager.ttflist}
    new = sorted(set(font_manager.findSystemFonts()) - known)
    for path in new:
        with contextlib.suppress(OSError, RuntimeError):  # not a font that matplotlib can read
            font_manager.fontManager.addfont(path)
    return bool(new)


@functools.cache
def _characters(path: str) -> frozenset[str]:
    if not Path(path).is_file():
        return frozenset()
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()


def _package(char: str) -> str:
    if unicodedata.name(char, '').startswith(CJK):
        return 'fonts-noto-cjk'
    return 'fonts-symbola' if unicodedata.category(char) == 'So' else 'fonts-noto-core'
