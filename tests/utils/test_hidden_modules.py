"""Files of a user that Python imports instead of its own modules are named."""

from __future__ import annotations

import os
import sys

import pytest

from cbam_det.utils.environment import MMCV, TORCHVISION, explain_import_error
from cbam_det.utils.hidden_modules import hidden_modules, hiding_files

from .test_environment import python

LOST = ImportError("No module named 'html.parser'; 'html' is not a package")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that Python searches first."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path.resolve()


def test_files_and_packages_with_the_name_of_a_standard_module_are_found(folder):
    assert hiding_files() == [] and hidden_modules() == ''
    (folder / 'mine.py').touch()
    (folder / 'sys.py').touch()  # Python has it inside, and nothing hides it
    (folder / 'this').mkdir()  # not a package
    assert hiding_files() == []
    (folder / 'antigravity.py').touch()
    (folder / 'this/__init__.py').touch()
    assert hiding_files() == [str(folder / name) for name in ('antigravity.py', 'this')]
    (folder / 'json.py').touch()  # imported from its right place before
    assert 'json' in sys.modules and len(hiding_files()) == 2
    assert f'Python imports {folder}/antigravity.py, {folder}/this instead' in hidden_modules()


def test_folder_that_may_be_entered_but_not_listed_is_left_out(folder, monkeypatch):
    listed = os.listdir

    def refuse(path: str) -> list[str]:
        if str(path) == str(folder):  # root may list every folder
            raise PermissionError(13, 'Permission denied', path)
        return listed(path)

    monkeypatch.setattr(os, 'listdir', refuse)
    assert hiding_files() == []


def test_import_error_by_a_hidden_module_names_the_file_and_no_wrong_torch(folder):
    (folder / 'this.py').touch()
    problem = explain_import_error(TORCHVISION, LOST)
    assert f'Python imports {folder}/this.py instead' in problem.description
    assert 'was not built for torch' not in problem.description
    assert problem.remedy.startswith('rename that file')


@pytest.mark.parametrize(
    ('text', 'wrong_torch'),
    [
        ('operator torchvision::nms does not exist', True),
        ('/x/_C.so: undefined symbol: _ZN3c10', True),
        ("cannot import name 'is_compiling' from 'torch'", True),
        ("No module named 'torch.export'", True),
        ("No module named 'PIL'", False),
        ("No module named 'html.parser'; 'html' is not a package", False),
    ],
)
def test_only_versions_and_symbols_mean_another_torch(text, wrong_torch):
    problem = explain_import_error(TORCHVISION, ImportError(text))
    assert ('was not built for torch' in problem.description) == wrong_torch
    assert 'was not built for torch' not in explain_import_error(MMCV, LOST).description


def test_import_of_the_package_warns_of_the_file_before_it_fails(tmp_path):
    (tmp_path / 'random.py').write_text('x = 1\n')
    done = python('import cbam_det', tmp_path)
    assert done.returncode == 1
    assert f'{tmp_path.resolve()}/random.py instead of its own module' in done.stderr
