"""Read the `key=value` pairs of `--cfg-options`, and print them for a command line.

The rules are those of MMEngine's `DictAction`, with one deviation. `DictAction` removes all blanks
from a value and splits a quoted value at its commas, so no option can name the folder 'My Drive'.
Here blanks inside a value are kept, and a quoted value is not split.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from .errors import InputError
from .mmengine_private import parse_scalar

BRACKETS = (('(', ')'), ('[', ']'))


def parse_options(pairs: Sequence[str] | None) -> dict[str, object]:
    """Read the `key=value` pairs of `--cfg-options` into a dictionary of dotted keys and values.

    Raises:
        InputError: a text is not such a pair, or the brackets of a value do not match.
    """
    options = {}
    pairs = pairs or ()
    for number, pair in enumerate(pairs):
        key, separator, value = pair.partition('=')
        if not separator:
            remedy = 'give KEY=VALUE'
            if number:
                quoted = shlex.join(_joined(pairs))
                remedy = f'quote a value that has blanks: --cfg-options {quoted}'
            raise InputError(f'--cfg-options takes key=value pairs, not {pair!r}; {remedy}')
        if value.strip()[:1] in ('[', '(') and any(
            value.count(opening) != value.count(closing) for opening, closing in BRACKETS
        ):
            raise InputError(f'--cfg-options {pair}: its brackets do not match; close each of them')
        options[key.strip()] = _read(value)
    return options


def cfg_options(options: Mapping[str, object]) -> str:
    """`--cfg-options` with these options, quoted for a shell; `parse_options` reads them back."""
    pairs = [f'{key}={written(value)}' for key, value in options.items()]
    return f'--cfg-options {shlex.join(pairs)}'


def _joined(words: Sequence[str]) -> list[str]:
    """Join the pairs that a shell has split at their blanks."""
    pairs: list[str] = []
    for word in words:
        if '=' in word or not pairs:
            pairs.append(word)
        else:
            pairs[-1] += f' {word}'
    return pairs


def _read(text: str) -> object:
    """A value: a list or tuple in brackets, a list without, a number, True, None or a text."""
    text = text.strip()
    if len(text) > 1 and text[0] in '\'"' and text.find(text[0], 1) == len(text) - 1:
        text = text[1:-1]
        items = [text]
    else:
        items = list(_split(text))
    if _in_brackets(text):
        inner = [_read(item) for item in _split(text[1:-1])]
        return tuple(inner) if text[0] == '(' else inner
    if text and items != [text]:
        return [_read(item) for item in items]
    return parse_scalar(text)


def _split(text: str) -> Iterator[str]:
    """The items between the commas outside brackets; a comma at the end adds none."""
    depth, start = 0, 0
    for place, character in enumerate(text):
        depth += (character in '([') - (character in ')]')
        if character == ',' and not depth:
            yield text[start:place]
            start = place + 1
    if text[start:].strip():
        yield text[start:]


def _in_brackets(text: str) -> bool:
    """Whether one pair of brackets encloses the whole text, unlike in '(a)/(b)'."""
    if (text[:1], text[-1:]) not in BRACKETS:
        return False
    depth = 0
    for place, character in enumerate(text):
        depth += (character in '([') - (character in ')]')
        if not depth:
            return place == len(text) - 1
    return False


def written(value: object) -> str:
    """A value for `key=value`, as `parse_options` reads it back.

    It cannot for a dictionary, a text that looks like a number, and some lists of texts.
    """
    text = str(value)
    if isinstance(value, (list, tuple)):
        opening, closing = BRACKETS[isinstance(value, list)]
        comma = ',' if opening == '(' and len(value) == 1 else ''
        plain = f'{opening}{",".join(map(str, value))}{comma}{closing}'
        text = plain if _read(plain) == value else text
    if _read(text) == value or not isinstance(value, str):
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'
