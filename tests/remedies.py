"""The remedies that a message prints: those of them that can be pasted, in a form that can be done.

Words in capitals (FOLDER) stand for what only the user knows, and `...` for what is left out.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from cbam_det.utils.config import RUNNER_KEYS
from cbam_det.utils.options import parse_options

LOOP = re.compile(r"for \w+ in .+; done(?: > (?:'[^']*'|[^\s;])+)?")
COMMAND = re.compile(r'python (?:-m )?\S*(?:tools|benchmarks)\S|cbam-det \w|pip install |ln -s ')
PAIR = re.compile(r'[A-Za-z_][\w.]*=')
VERBS = r'\b(?:give|set|take|use|pass|add|or|write)'
KEY = re.compile(rf'(?:{VERBS}|[;,:]) ((?:{"|".join(RUNNER_KEYS)})[\w.]*)=')
OPTION = re.compile(rf'(?:{VERBS}|\b(?:by|with)|;) (--(?!cfg-options)[a-z][\w-]*)')
FLAGS = ('--amp', '--check-images', '--resume')  # options that need no value
PLACEHOLDER = re.compile(r'[A-Z_]{3,}(\.py)?|.*\.\.\..*')


class Remedy(NamedTuple):
    """One remedy: how it is printed, and what it says by one of the others."""

    text: str
    command: str = ''
    options: dict[str, object] = {}  # of --cfg-options
    arguments: tuple[str, ...] = ()  # of the command line
    without: str = ''  # an option that is to be left out
    environment: tuple[str, str | None] | None = None  # a variable, and its value if it is to be


def remedies(message: str) -> list[Remedy]:
    """The remedies of a message that can be pasted, which stand behind its first semicolon."""
    fault, _, advice = message.partition('; ')
    advice = f'; {advice or fault}'
    commands = list(_commands(advice))
    for command in commands:
        advice = advice.replace(command, '')  # whose options are not remedies of their own
    found = [
        *(Remedy(command, command=command) for command in commands),
        *_options(advice),
        *_arguments(advice),
        *(
            Remedy(match[0], environment=(match[1], match[2]))
            for match in re.finditer(r'put ([A-Z_]+)=(\S*) before the command', advice)
        ),
        *(
            Remedy(match[0], environment=(match[1], None))
            for match in re.finditer(r'\bunset ([A-Z_]+)', advice)
        ),
    ]
    return [
        remedy
        for remedy in {remedy.text: remedy for remedy in found}.values()
        if remedy.environment or not any(map(PLACEHOLDER.fullmatch, words(remedy.text)))
    ]


def words(text: str) -> Iterator[str]:
    """A shell's words, as far as the quotes match."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ''
    with contextlib.suppress(ValueError):
        yield from lexer


def _part(text: str, ends: tuple[str, ...] = ('; ', ', ')) -> str:
    """A text up to one of `ends` or a closing bracket, outside of quotes and of brackets."""
    quote, depth = '', 0
    for place, character in enumerate(text):
        if quote:
            quote = '' if character == quote else quote
        elif character in '\'"':
            quote = character
        elif not depth and f'{text} '[place:].startswith((*ends, ')', ']', '}')):
            return text[:place]
        depth += (character in '([{') - (character in ')]}') if not quote else 0
    return text


def _commands(advice: str) -> Iterator[str]:
    loops = [match[0] for match in LOOP.finditer(advice)]
    yield from loops
    for match in () if loops else COMMAND.finditer(advice):
        command = _part(advice[match.start() :]).strip()
        if advice[match.start() + len(command) :].startswith(', then '):
            continue  # with another config
        yield re.sub(' --fix .*', ' --fix', command)  # behind which some go on in words


def _options(advice: str) -> Iterator[Remedy]:
    for match in re.finditer('(?<!--fix )--cfg-options ', advice):  # not those of that command
        pairs = list(takewhile(PAIR.match, words(_part(advice[match.end() :]))))
        if pairs and pairs != ['log_level=DEBUG']:  # which shows more of the same fault
            yield Remedy(f'{match[0]}{shlex.join(pairs)}', options=parse_options(pairs))
    for match in KEY.finditer(advice):
        text = _part(advice[match.end() :], ('; ', ', ', ' '))
        pair = f'{match[1]}={text}'
        try:  # as a config has it
            value = eval(text, {'__builtins__': {}}, {'dict': dict})
            yield Remedy(pair, options={match[1]: value})
        except (NameError, SyntaxError, TypeError):
            yield Remedy(pair, options=parse_options([pair]))


def _arguments(advice: str) -> Iterator[Remedy]:
    for match in OPTION.finditer(advice):
        value = next(words(_part(advice[match.end() :])), '')
        if '/' in value or value[:1].isdigit():
            yield Remedy(f'{match[1]} {shlex.quote(value)}', arguments=(match[1], value))
        elif match[1] in FLAGS and not PLACEHOLDER.fullmatch(value):
            yield Remedy(match[1], arguments=(match[1],))
    for match in re.finditer(r'leave (--[\w-]+) out', advice):
        yield Remedy(match[0], without=match[1])
