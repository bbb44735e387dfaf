"""What all tools share: --help, subcommands, choices and options."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from dataclasses import asdict

import pytest

from cbam_det.checkpoints import formats
from cbam_det.datasets.digits import Digits
from cbam_det.models.layers import POOLS
from cbam_det.utils import installation
from cbam_det.utils.installation import tool_command
from cbam_det.utils.records import typed_command
from cbam_det_tools import TOOLS
from cbam_det_tools.__main__ import main as cbam_det_main

from ..conftest import ROOT, in_process

# Runs a tool by its path, and prints its exit status and the libraries that it imported.
RUN_AND_LIST_IMPORTS = """
import runpy, sys

try:
    runpy.run_path(sys.argv[0], run_name='__main__')
except SystemExit as end:
    print('status', end.code, sorted({'torch', 'mmdet', 'mmengine'} & set(sys.modules)))
"""


@pytest.mark.parametrize('tool', [name.replace('-', '_') for name in TOOLS])
def test_help_and_wrong_options_are_answered_without_importing_torch_and_mmdet(tool):
    path = str(ROOT / f'tools/{tool}.py')
    for options, status in (['--help'], 0), (['--no-such-option'], 2):
        code = f'import sys; sys.argv = {[path, *options]!r}\n{RUN_AND_LIST_IMPORTS}'
        done = subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == f'status {status} []', done.stderr
        if options == ['--help']:
            assert 'example' in done.stdout
            assert f'cbam-det {tool.replace("_", "-")}' in done.stdout


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('train no.py', 'there is no config no.py in '),
        ('train faster_rcn_r50_cbam', "did you mean 'faster_rcnn_r50_cbam'"),
        ('train faster_rcnn_r50_cbam --resume no.pth', 'no.pth (--resume) does not exist'),
        ('test faster_rcnn_r50_cbam no.pth', 'the checkpoint no.pth does not exist'),
        ('predict no.jpg faster_rcnn_r50_cbam no.pth', 'no.jpg does not exist; give an image'),
        ('visualize attention no.jpg faster_rcnn_r50_cbam', 'there is no image no.jpg'),
        ('visualize pr mmdet::a.py http://b.pth --against no.py c', 'there is no config no.py'),
        ('export no.py no.pth --out a.onnx', 'there is no config no.py'),
        ('check_data no.py', 'there is no config no.py'),
        ('init no_folder', 'no data folder no_folder'),
    ],
)
def test_missing_file_is_reported_without_importing_torch_and_mmdet(words, message, tmp_path):
    tool, *options = words.split()
    path = str(ROOT / f'tools/{tool}.py')
    code = f'import sys; sys.argv = {[path, *options]!r}\n{RUN_AND_LIST_IMPORTS}'
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == 'status 2 []', done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: ') and message in line


@pytest.mark.parametrize(
    'words',
    [
        'places a.py --size 0',
        'check_data . --first 0',
        'experiment cost bccd --rounds 0',
        'experiment focus bccd --count 0',
        'visualize data a.py --count 0',
        'export a.py b.pth --out c.onnx --size 320 0',
    ],
)
def test_number_that_is_too_small_is_named_with_its_option(words, capsys):
    tool, *options = words.split()
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f'cbam_det_tools.{tool}').parse_args(options)
    assert end.value.code == 2
    option = [word for word in options if word.startswith('--')][-1]
    line = f'error: argument {option}: 0 is too small; give 1 or more'
    assert capsys.readouterr().err.splitlines()[-1].endswith(line)


def test_every_tool_is_a_subcommand_of_the_console_script(capsys):
    scripts = {path.stem for path in (ROOT / 'tools').glob('[a-z]*.py')}
    assert scripts == {name.replace('-', '_') for name in TOOLS}
    with pytest.raises(SystemExit) as end:
        cbam_det_main(['--help'])
    output = capsys.readouterr().out
    assert end.value.code == 0
    assert all(f'\n  {name} ' in output for name in TOOLS)
    assert 'example:\n  cbam-det train' in output


def test_console_script_without_arguments_lists_its_tools(capsys):
    assert cbam_det_main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == '' and all(f'\n  {name} ' in printed.err for name in TOOLS)


def test_subcommand_runs_the_tool_of_its_name(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        cbam_det_main(['make-digits', '--sise', '3'])
    assert end.value.code == 2 and 'usage: cbam-det make-digits ' in capsys.readouterr().err
    options = ['--train', '2', '--val', '1', '--size', '64']
    assert cbam_det_main(['make-digits', str(tmp_path / 'data'), *options]) == 0
    assert 'made' in capsys.readouterr().out
    assert typed_command() == f'cbam-det make-digits {tmp_path}/data {" ".join(options)}'


def test_choices_of_parsers_match_the_package():
    """The parsers repeat them because they must not import the package."""
    convert, digits = in_process('convert_checkpoint').module, in_process('make_digits').module
    assert (formats.OURS, *formats.FORMATS) == convert.FORMATS
    assert (convert.LAYOUTS, convert.STARTS) == (formats.LAYOUTS, formats.STARTS)
    assert (tuple(formats.FACTORS), POOLS) == (convert.ORDERS, convert.POOLS)
    defaults = vars(digits.parse_args([]))
    assert {name: defaults[name] for name in asdict(Digits())} == asdict(Digits())


@pytest.mark.parametrize('option', ['--pools', '--spatial-pools'])
def test_unknown_pool_is_a_wrong_option_of_convert_checkpoint(option, capsys):
    with pytest.raises(SystemExit):
        in_process('convert_checkpoint').module.parse_args(['in', 'out', option, 'mean'])
    assert "invalid choice: 'mean'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ('tool', 'words'),
    [
        *(('train', ['c']), ('test', ['c', 'w']), ('places', ['c']), ('check_data', ['c'])),
        ('visualize', ['data', 'c']),
    ],
)
def test_options_of_a_message_are_added_to_those_of_a_command(tool, words):
    options = ['--cfg-options', 'a=1', 'b=2', '--cfg-options', 'c=3']
    args = in_process(tool).module.parse_args([*words, *options])
    assert args.cfg_options == ['a=1', 'b=2', 'c=3']


@pytest.mark.parametrize('tool', sorted(path.stem for path in (ROOT / 'tools').glob('*.sh')))
def test_scripts_show_an_example(tool, run, tmp_path):
    output = run(f'{tool}.sh', '--help', cwd=tmp_path).stdout
    assert 'example' in output and tool in output


@pytest.mark.parametrize(
    ('folder', 'called', 'installed', 'command'),
    [
        (ROOT, 'tools/train.py', False, 'python tools/check_data.py'),
        (ROOT, 'cbam-det train', False, 'cbam-det check-data'),
        (ROOT, 'python', True, 'cbam-det check-data'),
        (ROOT / 'docs', 'python', False, f'python {ROOT}/tools/check_data.py'),
    ],
)
def test_command_of_a_message_works_where_it_is_printed(
    folder, called, installed, command, monkeypatch
):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', [called])
    monkeypatch.setattr(installation, 'INSTALLED', installed)
    assert tool_command('check-data', 'a b', 3) == f"{command} 'a b' 3"


def test_messages_name_tools_by_tool_command_alone():
    """An installed package has no folder tools/; docstrings may name its files."""
    name_of_a_tool = re.compile(r'tools/\w+\.|cbam-det ')
    for file in (ROOT / 'cbam_det').rglob('*.py'):
        text = file.read_text(encoding='utf-8')
        if not name_of_a_tool.search(text) or file.name == 'installation.py':
            continue
        tree = ast.parse(text)
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and isinstance(node.body[0], ast.Expr)
        }
        messages = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
        ]
        assert [text for text in messages if name_of_a_tool.search(text)] == [], file
