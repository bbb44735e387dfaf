"""The error for wrong input, the hints in its message, and printing for any terminal."""

import contextlib
import difflib
import sys
import unicodedata
from collections.abc import Iterable


class InputError(ValueError):
    """The input of a user is wrong; the message names the value, the place and the remedy.

    The message is one printable line, whatever names it contains.
    """

    def __init__(self, message: object) -> None:
        super().__init__(printable(' '.join(str(message).splitlines())))


def first_few(names: list[str], limit: int = 3) -> str:
    """The first of many names, and how many more there are: 'a, b, c and 7 more'."""
    rest = len(names) - limit
    return ', '.join(names[:limit]) + (f' and {rest} more' if rest > 0 else '')


def near_hint(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str:
    """A hint for an error, such as "; did you mean 'max_epochs'?"; '' if no name is similar."""
    matches = difflib.get_close_matches(name, list(candidates), 2, cutoff)
    return f'; {did_you_mean(matches)}' if matches else ''


def did_you_mean(names: Iterable[str]) -> str:
    """A question that offers similar names: "did you mean 'a' or 'b'?"."""
    return f'did you mean {" or ".join(map(repr, names))}?'


def printable(text: str) -> str:
    """Escape control characters, and bytes of file names that are not UTF-8.

    Control characters in a file name could change the colours or the title of a terminal. Line ends
    and tabs are kept.
    """
    return ''.join(
        char.encode('unicode_escape').decode()
        if char not in '\n\t' and unicodedata.category(char) in ('Cc', 'Cs')
        else char
        for char in text
    )


def print_stderr(line: str) -> None:
    """Print to stderr, even if it is closed: Ctrl-C also ends a `| tee` of the same terminal."""
    with contextlib.suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)
