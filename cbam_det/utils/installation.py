"""Where the package has its configs and tools, and the commands that start the tools."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

# Whether the package is installed without a checkout; then the configs are inside it.
INSTALLED = (Path(__file__).parents[1] / 'configs').is_dir()


def shipped_folder(name: str) -> Path:
    """A folder that comes with the package: inside the installed package, or in the checkout."""
    package = Path(__file__).parents[1]
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


def tools_folder() -> Path:
    """The folder of the tools: `tools` in a checkout, or their installed package."""
    parent = Path(__file__).parents[2]
    return parent / ('cbam_det_tools' if INSTALLED else 'tools')


def tool_file(name: str) -> str:
    """The path of a file of `tools_folder`, relative to the current folder if inside that."""
    file, folder = tools_folder() / name, Path.cwd()
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)


def tool_command(name: str, *arguments: object) -> str:
    """The shell command that starts a tool from the current folder.

    It is `cbam-det check-data ...` if this process was started by `cbam-det`, or if the package is
    installed without a checkout; otherwise `python tools/check_data.py ...`.

    Args:
        name: the tool's name as a subcommand of `cbam-det`.
        arguments: its arguments, which are quoted.
    """
    words = ['python', tool_file(f'{name.replace("-", "_")}.py')]
    if INSTALLED or sys.argv[0].startswith('cbam-det '):
        words = ['cbam-det', name]
    return shlex.join([*words, *map(str, arguments)])
