"""The error of wrong input; the command-line tools print it as one line and exit with 2."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """What a user gave does not fit; the message names the value, the place and the remedy.

    It is one line, whatever names it quotes.
    """

    def __init__(self, message: object) -> None:
        super().__init__(' '.join(str(message).splitlines()))


def some(names: list[str], most: int = 3) -> str:
    """The first of many names, and how many more there are: 'a, b, c and 7 more'."""
    more = len(names) - most
    return ', '.join(names[:most]) + (f' and {more} more' if more > 0 else '')


def one_line_errors(run: Callable[[], int | None]) -> int:
    """Call `run` and return its exit status; an InputError becomes one line and status 2."""
    try:
        return run() or 0
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
