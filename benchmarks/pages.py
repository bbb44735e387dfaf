"""Pages that a command writes, or with --check compares with what it would write."""

from __future__ import annotations

from pathlib import Path

from cbam_det.utils.errors import InputError


def write_or_check(file: Path, text: str, check: bool, source: str, command: str) -> None:
    """Write a page.

    Args:
        file: the page.
        text: what it is to hold.
        check: write nothing, and raise where it holds something else.
        source: what the text is made of, for the message.
        command: what writes it, for the message.

    Raises:
        InputError: with `check`, the file is missing or holds something else.
    """
    if not check:
        file.write_text(text, encoding='utf-8')
    elif not file.is_file() or file.read_text(encoding='utf-8') != text:
        raise InputError(f'{file} differs from {source}; run python -m {command}')
