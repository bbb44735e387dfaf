"""Plain English: words and turns that readers had to decode do not come back."""

from __future__ import annotations

import io
import json
import re
import tokenize
from collections.abc import Iterator
from functools import cache

import pytest

from ..conftest import ROOT

# A pattern, and what to write instead.
DIALECT = {
    r'\bmend(s|ed|ing)?\b': 'fix',
    r'(?<![Tt]here )\b(is|are) no (?!longer|more|less|other|such|worse|better)[a-z]+': 'is not a',
    r'\bunfit\b': 'must be, does not fit',
    r'\bleaf config': 'config',
    r'\bledgers?\b': 'study, study records',
    r'\bby whichever\b': 'whichever ... you run',
    r'\bwitness(es)?\b': 'independent comparison',
    r'\bspeaks? for\b': 'supports',
    r', say[,.;)\]]|\(say\b': 'for example',
    r'\blies? (beside|below|above|there)\b': 'is',
    r'\bstands? (there|beside|in the|below|above)\b': 'is',
    r'\bgo(es)? past\b': 'bypasses, skips',
    r'\bgo(es)? by it\b': 'uses it',
    r'\bcan be had\b': 'is available',
    r'\bhas not left (its|their) start\b': 'has hardly changed',
    r'\bof its own accord\b': 'by itself',
    r'\bhurts?\b': 'is harmful',
    r'\bpass(es|ed)? over\b': 'ignores',
    r'\bput right\b': 'corrected',
    r'\bone a line\b': 'one per line',
    r'\bsaid already\b': 'reported already',
    r'\bwithout a word\b|\bin silence\b': 'silently',
    r'\bgo(es)? on\b': 'continues',
    r'\ba run before\b(?! it)': 'an earlier run',
    r'; near: ': 'did you mean',
    r"['`)] say\b": 'for example, such as',
    r'\bas (mmdet|MMEngine|torch) (has|had) it\b': 'as in ...',
    r'\btwins?\b': 'the two configs',
    r'\b(images|steps) an? (step|epoch)\b': 'per',
    r'\b(differ|differs) in \w+ \w+ alone\b': 'differ only in',
    r'\b(knows?|reads?|takes?) no such\b': 'does not know, read or take',
}


@cache
def texts() -> list[tuple[str, int, str]]:
    """(file, line, text): the lines of pages, and the comments and strings of code."""
    read = []
    names = ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')
    pages = [*(ROOT / name for name in names), *ROOT.glob('docs/**/*.md')]
    folders = ('configs', 'experiments', 'examples')
    for page in [*pages, *(ROOT / folder / 'README.md' for folder in folders)]:
        if '_build' not in page.parts:
            lines = page.read_text(encoding='utf-8').splitlines()
            name = str(page.relative_to(ROOT))
            read += [(name, number, line) for number, line in enumerate(lines, start=1)]
    for cell in json.loads((ROOT / 'docs/tutorial.ipynb').read_text(encoding='utf-8'))['cells']:
        read += [(f'docs/tutorial.ipynb, {cell["id"]}', 1, line) for line in cell['source']]
    for folder in ('cbam_det', 'tools', 'benchmarks'):
        for file in sorted((ROOT / folder).rglob('*.py')):
            read += prose_of(str(file.relative_to(ROOT)), file.read_text(encoding='utf-8'))
    return read


def prose_of(name: str, code: str) -> Iterator[tuple[str, int, str]]:
    """The comments and strings of a Python file; adjacent strings are one text."""
    joined: list[str] = []
    first = 0
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        kind = tokenize.tok_name[token.type]
        if kind in ('STRING', 'FSTRING_MIDDLE'):
            first = first if joined else token.start[0]
            joined.append(re.sub(r'^\w{0,2}[\'"]+|[\'"]+$', '', token.string))
        elif kind == 'COMMENT':
            yield name, token.start[0], token.string
        elif joined and kind not in ('NL', 'FSTRING_START', 'FSTRING_END'):
            yield name, first, ' '.join(''.join(joined).split())
            joined = []


@pytest.mark.parametrize(('pattern', 'instead'), DIALECT.items())
def test_no_text_has_words_of_the_dialect(pattern, instead):
    hits = [
        f'{file}:{line}: {match.group()!r}'
        for file, line, text in texts()
        for match in re.finditer(pattern, text)
    ]
    assert not hits, f'write {instead!r}:\n' + '\n'.join(hits)


def test_comments_and_joined_strings_are_read():
    code = "x = f('it is no '\n      'file')  # mend it\n"
    assert list(prose_of('a.py', code)) == [('a.py', 1, 'it is no file'), ('a.py', 2, '# mend it')]
