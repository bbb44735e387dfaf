"""README.md and docs/: code blocks run, links are valid, and the site works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from ..conftest import ROOT

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
# Pages that create files for the blocks of other pages come first.
FIRST = ('docs/guides/train_and_test.md', 'docs/get_started/demo.md')


class Block(NamedTuple):
    """A fenced block: its mark (`run`, `slow`, `setup` or none), language and text."""

    page: str
    mark: str | None
    language: str
    text: str


def blocks() -> list[Block]:
    """The shell and Python blocks of all pages, in an order in which they can run."""
    all_blocks = []
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        pattern = r'(?:<!-- (\w+) -->\n)?```(bash|python)\n(.*?)```'
        for match in re.finditer(pattern, page.read_text(encoding='utf-8'), re.DOTALL):
            all_blocks.append(Block(name, *match.groups()))
    order = {name: index for index, name in enumerate(FIRST)}
    return sorted(all_blocks, key=lambda block: order.get(block.page, len(order)))


def run(block: Block, folder: Path) -> None:
    """Run a block in a folder that looks like a checkout."""
    for name in ('tools', 'configs', 'experiments'):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    python = str(Path(sys.executable).parent)
    program = ['bash', '-euo', 'pipefail'] if block.language == 'bash' else [sys.executable, '-']
    done = subprocess.run(
        program,
        input=block.text,
        cwd=folder,
        env={**os.environ, 'PATH': f'{python}:{os.environ["PATH"]}', 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, f'{block.page}:\n{block.text}\n{done.stderr[-3000:]}'


def test_every_block_is_run_or_says_what_it_requires():
    for block in blocks():
        assert block.mark in (None, 'run', 'slow', 'setup'), block
        first_line = block.text.partition('\n')[0]
        if block.mark == 'setup':
            assert all(line.startswith('make ') for line in block.text.splitlines()), block
        elif block.mark is None:
            assert first_line.startswith(('# Needs ', '# Example: ')), f'{block.page}: {first_line}'


def test_blocks_of_the_pages_run(digits, tmp_path):
    (tmp_path / 'data').mkdir()
    shutil.copytree(digits, tmp_path / 'data' / 'digits')
    quick = [block for block in blocks() if block.mark == 'run']
    assert len(quick) >= 3
    for block in quick:
        run(block, tmp_path)


@pytest.mark.slow
def test_slow_blocks_run(tmp_path):
    for block in blocks():
        if block.mark == 'slow':
            text = block.text
            if re.search('work_dirs/(maps|parallel)', text):  # no other block uses their weights
                text = text.rstrip() + ' train_cfg.max_epochs=1\n'
            if '--work-dir' not in text and 'tools/train.py' in text:
                text = text.rstrip() + ' --cfg-options train_cfg.max_epochs=1\n'
            run(block._replace(text=text), tmp_path)


def test_linked_files_exist():
    for page in PAGES:
        text = page.read_text(encoding='utf-8')
        for target in re.findall(r'\]\(([^)#\s]*)(?:#[\w-]+)?\)', text):
            if target and '://' not in target:
                assert (page.parent / target).exists(), f'{page}: {target}'


def test_readme_has_at_most_200_lines():
    assert len((ROOT / 'README.md').read_text(encoding='utf-8').splitlines()) <= 200


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built with warnings as errors."""
    out = tmp_path_factory.mktemp('site')
    source = out / 'source'
    shutil.copytree(ROOT / 'docs', source, ignore=shutil.ignore_patterns('_build', 'api'))
    shutil.copy(ROOT / 'CHANGELOG.md', out)
    command = [sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html']
    done = subprocess.run(
        [*command, str(source), str(out / 'html')],
        cwd=out,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out / 'html'


@pytest.mark.slow
def test_site_builds_without_a_warning_and_shows_all_its_pictures(site):
    pages = list(site.rglob('*.html'))
    assert len(pages) > 100  # with the API reference
    for page in pages:
        for picture in re.findall(r'<img[^>]* src="([^":]+)"', page.read_text(encoding='utf-8')):
            assert (page.parent / picture).is_file(), f'{page}: {picture}'


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason='Chromium is not installed')
def test_search_of_the_site_finds_frozen_stages_in_a_browser(site, tmp_path):
    flags = ('--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path}')
    for page, words in (
        ('search.html?q=frozen+stages', 'how_it_works/insertion.html'),
        ('index.html', 'Convolutional Block Attention Module'),
        ('evidence/voc07.html', '4,952'),
    ):
        done = subprocess.run(
            [
                *(CHROMIUM, *flags, '--enable-logging=stderr', '--virtual-time-budget=8000'),
                *('--dump-dom', f'{site.as_uri()}/{page}'),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert 'CONSOLE' not in done.stderr
        assert words in done.stdout, page
