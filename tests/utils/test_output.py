"""Print names in any script to any terminal, and to a pipe that is closed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from cbam_det.utils.errors import InputError, printable
from cbam_det.utils.exits import one_line_errors

# A command without an import of torch: it loads only the files of the modules.
COMMAND = """
import logging, sys
from cbam_det_tools import _load_without_package

errors, exits = map(_load_without_package, ('errors', 'exits'))

def command():
    logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
    for number in range(LINES):
        print('猫', number)
        logging.getLogger().warning('قطة')
    raise errors.InputError('no image 猫.jpg')

sys.exit(exits.one_line_errors(command))
"""


def test_a_terminal_that_lacks_a_character_shows_its_escape(monkeypatch):
    monkeypatch.setenv('PYTHONIOENCODING', 'ascii')
    code = [sys.executable, '-c', COMMAND.replace('LINES', '1')]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.splitlines() == [r'\u732b 0', r'\u0642\u0637\u0629']
    assert done.stderr == 'error: no image \\u732b.jpg\n'


def test_a_command_continues_silently_after_its_pipe_is_closed():
    code = [sys.executable, '-c', COMMAND.replace('LINES', '10_000')]
    with subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout.readline()
        command.stdout.close()  # as `head` does
        message = command.stderr.read().decode()
    assert command.returncode == 2 and message == 'error: no image 猫.jpg\n'


@pytest.mark.parametrize(
    ('name', 'shown'),
    [
        ('\x1b]0;title\x07\x1b[31mred.jpg', r'\x1b]0;title\x07\x1b[31mred.jpg'),
        ('\x9b31mred', r'\x9b31mred'),
        ('caf\udce9.jpg', r'caf\udce9.jpg'),  # Latin-1 on a disk of UTF-8
        ('猫 قطة می‌روم $1_to_$5', '猫 قطة می‌روم $1_to_$5'),
    ],
)
def test_control_characters_of_names_are_not_printed_raw(name, shown):
    assert printable(name) == shown
    assert str(InputError(f'no image {name}')) == f'no image {shown}'


def test_fault_of_the_disk_is_one_line_and_other_errors_keep_their_traceback(capsys, tmp_path):
    (tmp_path / 'file').touch()

    def fail(number: int, *path: str) -> None:
        raise OSError(number, os.strerror(number), *path)

    assert one_line_errors(lambda: (tmp_path / 'file/x').touch()) == 2
    said = f'error: {tmp_path}/file/x: Not a directory; give a folder\n'
    assert capsys.readouterr().err == said
    assert one_line_errors(lambda: fail(errno.ENOSPC)) == 2
    said = 'error: a file: No space left on device; free some space, or give another folder\n'
    assert capsys.readouterr().err == said
    with pytest.raises(OSError, match='Bad file descriptor'):
        one_line_errors(lambda: fail(errno.EBADF))
