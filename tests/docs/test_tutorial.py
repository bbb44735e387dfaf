"""docs/tutorial.ipynb: runs from its first cell to its last, and is stored with small outputs."""

from __future__ import annotations

import json
import re

import pytest

from ..conftest import ROOT

NOTEBOOK = ROOT / 'docs' / 'tutorial.ipynb'


def read_outputs(cells: list[dict]) -> list[dict]:
    """The outputs of all code cells."""
    return [output for cell in cells for output in cell.get('outputs', ())]


def printed(cells: list[dict]) -> str:
    """What all cells print on the standard output."""
    return ''.join(
        ''.join(out['text']) for out in read_outputs(cells) if out.get('name') == 'stdout'
    )


def stored_cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']


@pytest.mark.slow
def test_tutorial_runs_and_prints_scores_and_attention(tmp_path):
    from benchmarks.tutorial import run

    text = printed(run(tmp_path).cells)
    for words in ('train: 1,000 images', 'CBAM against baseline: AP', 'layer4/1/bn2.cbam: channel'):
        assert words in text
    assert (tmp_path / 'work_dirs/tutorial/study/report.html').is_file()


def test_stored_outputs_are_small_without_errors_and_folders_of_this_machine():
    cells = stored_cells()
    assert {output['output_type'] for output in read_outputs(cells)} <= {'stream', 'execute_result'}
    assert not any(output.get('name') == 'stderr' for output in read_outputs(cells))
    assert NOTEBOOK.stat().st_size < 500_000
    absolute_paths = re.findall(r'(?<![\w.])/\w[\w.-]*/\S*', printed(cells))
    assert absolute_paths
    assert all(path.startswith('/home/you/') for path in absolute_paths)
