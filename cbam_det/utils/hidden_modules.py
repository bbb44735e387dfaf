"""Files of a user that Python imports instead of its own modules, such as `random.py`.

This file imports only `os` and `sys`, because other modules may be hidden.
"""

import os
import sys


def hiding_files() -> list[str]:
    """Files and packages that hide a module of Python's standard library.

    They have the name of that module, and are in a folder that Python searches before its own
    library, such as the current one. A file is left out if Python's own module is already imported.
    """
    library = os.path.dirname(os.path.realpath(os.__file__))
    files = []
    for folder in map(os.path.realpath, sys.path):
        if folder == library:
            break
        try:
            entries = sorted(os.listdir(folder))
        except OSError:  # not a folder, or its files may not be listed
            continue
        for entry in entries:
            name, ending = os.path.splitext(entry)
            path = os.path.join(folder, entry)
            file = path if ending == '.py' else os.path.join(path, '__init__.py')
            standard = name in sys.stdlib_module_names and name not in sys.builtin_module_names
            if standard and ending in ('', '.py') and os.path.isfile(file):
                imported = (
                    getattr(sys.modules[name], '__file__', '') if name in sys.modules else file
                )
                if imported and os.path.realpath(imported) == file:
                    files.append(path)
    return files


def hidden_modules() -> str:
    """The files that hide a module, and the remedy, as one line; '' if there are none."""
    files = hiding_files()
    if not files:
        return ''
    return (
        f'Python imports {", ".join(files)} instead of its own module of that name; rename it, or '
        'run the command in another folder'
    )
