"""Files of a user that Python imports in the place of its own modules, such as `random.py`.

Nothing but `os` and `sys` is imported here: what else there is may be hidden.
"""

import os
import sys


def hiding_files() -> list[str]:
    """The files and packages that have the name of a standard module and lie in a folder which
    Python searches before its own library, such as the current one; without those whose module was
    imported from its right place before.
    """
    library = os.path.dirname(os.path.realpath(os.__file__))
    files = []
    for folder in map(os.path.realpath, sys.path):
        if folder == library:
            break
        for entry in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
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
    """What is hidden and the remedy, as one line; '' where nothing is."""
    files = hiding_files()
    if not files:
        return ''
    return (
        f'{", ".join(files)} hides the module of Python that has its name; rename it, or call from '
        'another folder'
    )
