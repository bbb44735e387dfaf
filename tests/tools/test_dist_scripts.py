"""The port at which the processes of `dist_train.sh` and `dist_test.sh` meet."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ..conftest import ROOT

# Prints the arguments of torchrun, and runs everything else.
PYTHON = """#!/bin/sh
[ "$1" = -m ] || exec {python} "$@"
echo "$@"
"""


@pytest.mark.parametrize('words', ['dist_train.sh c.py 1', 'dist_test.sh c.py w.pth 1'])
def test_each_run_of_one_machine_has_its_own_port_and_several_machines_agree_on_one(
    words, tmp_path
):
    python = tmp_path / 'python'
    python.write_text(PYTHON.format(python=sys.executable))
    python.chmod(0o755)

    def port(**environment: str) -> int:
        script, *options = words.split()
        base = {key: value for key, value in os.environ.items() if key not in ('PORT', 'NNODES')}
        done = subprocess.run(
            ['bash', str(ROOT / 'tools' / script), *options],
            env={**base, 'PYTHON': str(python), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        arguments = done.stdout.split()
        return int(arguments[arguments.index('--master_port') + 1])

    assert port(NNODES='2') == 29500
    assert port(PORT='4321') == port(PORT='4321', NNODES='2') == 4321
    assert len({port() for _ in range(2)} | {29500}) == 3


@pytest.mark.parametrize('words', ['dist_train.sh c.py 2', 'dist_test.sh c.py w.pth 2'])
def test_error_of_all_processes_is_repeated_once(words, tmp_path):
    python = tmp_path / 'python'
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] || exec {sys.executable} "$@"\n'
        'echo "error: a fault" >&2; echo "error: a fault" >&2; exit 2\n'
    )
    python.chmod(0o755)
    script, *options = words.split()
    done = subprocess.run(
        ['bash', str(ROOT / 'tools' / script), *options],
        env={**os.environ, 'PYTHON': str(python)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count('error: a fault') == 3  # of two processes, and at the end
