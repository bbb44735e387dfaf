"""Run all cells of docs/tutorial.ipynb and store their outputs: `python -m benchmarks.tutorial`.

What the commands write to the standard error (warnings of libraries) is not stored.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / 'docs' / 'tutorial.ipynb'
FOLDER = ROOT / 'work_dirs' / 'notebook'


def run(folder: Path) -> nbformat.NotebookNode:
    """Run the tutorial in a folder with the package of this checkout; returns it with outputs.

    Raises:
        CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    paths = (str(Path(sys.executable).parent), os.environ['PATH'])
    environment = dict(os.environ, PATH=os.pathsep.join(paths), PYTHONPATH=str(ROOT))
    resources = dict(metadata=dict(path=str(folder)))
    client = NotebookClient(notebook, timeout=3600, resources=resources, coalesce_streams=True)
    client.execute(env=environment)
    for cell in notebook.cells:
        cell.metadata.pop('execution', None)  # the time of day
        if cell.cell_type == 'code':
            cell.outputs = [out for out in cell.outputs if out.get('name') != 'stderr']
    return notebook


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    text = nbformat.writes(run(FOLDER)).replace(str(FOLDER), '/home/you')
    NOTEBOOK.write_text(text + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
