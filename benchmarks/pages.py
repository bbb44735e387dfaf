"""Write generated pages, or check that they are up to date."""

from __future__ import annotations

from pathlib import Path

from cbam_det.utils.errors import InputError


def write_or_check(file: Path, text: str, check: bool, source: str, command: str) -> None:
    """Write a page, or check it.

    Args:
        file: path of the page.
        text: its content.
        check: write nothing, and raise if the file has other content.
        source: what the text is made from, for the message.
        command: module that writes the page, for the message.

    Raises:
        InputError: with `check`, the file is missing or has other content.
    """
    if not check:
        file.write_text(text, encoding='utf-8')
    elif not file.is_file() or file.read_text(encoding='utf-8') != text:
        raise InputError(f'{file} differs from {source}; run python -m {command}')
