"""`--cfg-options custom_imports=...` imports the modules, although MMEngine has read the config."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A config that imports a module of its own, beside other modules."""
    for name in ('of_config', 'of_option'):
        (tmp_path / f'{name}_mod.py').write_text('')
        monkeypatch.delitem(sys.modules, f'{name}_mod', raising=False)
    (tmp_path / 'broken_mod.py').write_text('1 / 0')
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'mine.py').write_text("custom_imports = dict(imports=['of_config_mod'])\n")
    return str(tmp_path / 'mine.py')


@pytest.mark.parametrize('modules', ['of_option_mod', ['of_option_mod'], ['sys', 'of_option_mod']])
def test_modules_of_the_option_are_imported(config, modules):
    cfg = read_config(config, {'custom_imports.imports': modules})
    assert {'of_config_mod', 'of_option_mod'} <= set(sys.modules)
    assert cfg.custom_imports.imports == modules


def test_modules_that_are_not_there_may_be_allowed_to_fail(config):
    read_config(
        config,
        {
            'custom_imports.imports': ['nowhere_mod', 'of_option_mod'],
            'custom_imports.allow_failed_imports': True,
        },
    )
    assert 'of_option_mod' in sys.modules


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'custom_imports.imports': 'nowhere_mod'},
            "custom_imports.imports='nowhere_mod' cannot be imported (ImportError: Failed to",
        ),
        ({'custom_imports.imports': ['broken_mod']}, '(ZeroDivisionError: division by zero)'),
        ({'custom_imports.imports': [3]}, 'custom_imports.imports=[3] is a list; give a string'),
        ({'custom_imports.modules': 'sys'}, 'custom_imports.modules is not an option; give '),
        ({'custom_imports': 'sys'}, "custom_imports='sys' is a string; give a dictionary or None"),
    ],
)
def test_what_cannot_be_imported_is_one_line(config, options, message):
    with pytest.raises(InputError) as caught:
        read_config(config, options)
    assert message in str(caught.value) and '\n' not in str(caught.value)
