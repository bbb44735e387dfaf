"""What tests provoke is tried again as its message tells: the next try passes or fails otherwise.

While a test runs, every message by which a function or a tool of ours refuses what it is given is
recorded. After the test each of its `remedies` is done: a command is run, an option is added to the
same command line, a key is set in the same config, a variable in the environment. `conftest.py`
does so for all tests, so that none can forget it; a run itself is left out.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import importlib.util
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import NamedTuple
from unittest import mock

from mmengine.config import Config
from mmengine.runner import Runner
from packaging.requirements import Requirement

from cbam_det.studies import runs
from cbam_det.utils.config import override
from cbam_det.utils.data_config import DataSet
from cbam_det.utils.errors import InputError
from cbam_det.utils.options import cfg_options, parse_options
from cbam_det.utils.run_config import RunConfig

from .remedies import Remedy, remedies, words

TESTS = Path(__file__).parent
ROOT = TESTS.parent
MOST = 3  # messages of one test whose remedies are done
MOST_ERRORS = 20  # of one test whose calls are recorded
MINUTES = {'cost', 'focus', 'gates'}  # of the ledger
SMALL_DIGITS = ('--train', '12', '--val', '5', '--size', '96')
READ_ANEW = (
    Config,
    RunConfig,
    DataSet,
    Path,
    str,
    int,
    float,
    dict,
    tuple,
    FunctionType,
    type(None),
)
OF_OPTIONS = ('would have no effect', 'do not fit', 'takes key=value', 'brackets do not match')


class NotDone(Exception):
    """Why a remedy cannot be done in a test."""


class Checked(BaseException):
    """A run would begin, all checks behind it, or a command names another fault."""


def load_tool(name: str) -> Callable[..., int]:
    """A tool in this process, `load_tool('visualize')('data', config)` -> its exit status."""
    if name.startswith('benchmarks.'):
        module = importlib.import_module(name)
    else:
        spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

    def call(*args: object) -> int:
        sys.argv = [f'tools/{name}.py', *map(str, args)]
        if name.startswith('benchmarks.'):
            return module.one_line_errors(module.main)
        return module.main()

    call.module = module
    return call


class ToolCall(NamedTuple):
    """A tool's command line."""

    name: str
    args: tuple[str, ...]

    def again(self, remedy: Remedy, message: str) -> str:
        """Call it as a remedy tells; what it says in the end, '' where it is content."""
        args, options = list(self.args), remedy.options
        if remedy.without in args:
            args.remove(remedy.without)
        if remedy.command:
            options = run_command(remedy.command)
        if options:
            if message.startswith('--cfg-options') and '--cfg-options' in args:
                del args[args.index('--cfg-options') :]  # it is what was wrong
            args += shlex.split(cfg_options(options))
        return call_tool(self.name, [*args, *remedy.arguments])[1]


class FunctionCall(NamedTuple):
    """A function of ours that a test has called."""

    function: Callable
    values: dict[str, object]
    configs: dict[str, Config]  # those among the values, or what a `RunConfig` was read from

    def again(self, remedy: Remedy, message: str) -> str:
        """Call it as a remedy tells; what it says in the end, '' where it is content."""
        options = remedy.options
        if remedy.arguments or remedy.without:
            raise NotDone('it is for a command line, and the test calls a function')
        if (options or remedy.command.endswith('--fix')) and not self.configs:
            raise NotDone('it is for a config, and the test has no whole one')
        made = NotDone('the test gives the function what it has read or built before')
        is_made = not all(isinstance(value, READ_ANEW) for value in self.values.values())
        if remedy.command:
            if is_made:
                raise made
            options = run_command(remedy.command)
        values: dict[str, object] = dict(self.values)
        for key, cfg in self.configs.items():
            values[key] = override(copy.deepcopy(cfg), options)
        try:
            for key in self.configs:
                if isinstance(self.values[key], RunConfig):
                    values[key] = RunConfig.from_cfg(values[key])
            self.function(**values)
        except InputError as error:
            if is_made and str(error) == message:
                raise made from error
            return str(error)
        return ''


class Refusal(NamedTuple):
    """A message, the folder in which it came, and the call that ended in it."""

    message: str
    folder: str
    call: ToolCall | FunctionCall | None


class Error(NamedTuple):
    """An error as it is made, of which it is not known yet who catches it."""

    error: InputError
    folder: str
    call: FunctionCall | None


ERRORS: list[Error] = []  # of the present test
REFUSALS: list[Refusal] = []  # of tools in it
RUN_CONFIGS: list[tuple[RunConfig, Config]] = []  # those that it has read, and from what
VARIABLES_SET: set[str] = set()  # by remedies of tests before


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Record what is refused."""
    ERRORS.clear()
    REFUSALS.clear()
    RUN_CONFIGS.clear()
    create, read = InputError.__init__, RunConfig.from_cfg.__func__

    def record(error: InputError, message: object) -> None:
        create(error, message)
        with contextlib.suppress(FileNotFoundError):
            wanted = len(ERRORS) < MOST_ERRORS and remedies(str(error))
            call = _present_call() if wanted else None
            ERRORS.append(Error(error, os.getcwd(), call))

    @functools.wraps(read)
    def read_and_keep(cls: type[RunConfig], cfg: Config) -> RunConfig:
        run = read(cls, cfg)
        RUN_CONFIGS[MOST_ERRORS:] = []
        RUN_CONFIGS.insert(0, (run, copy.deepcopy(cfg)))
        return run

    with (
        mock.patch.object(InputError, '__init__', record),
        mock.patch.object(RunConfig, 'from_cfg', classmethod(read_and_keep)),
    ):
        yield


def _present_call() -> FunctionCall | None:
    """The outermost call of ours by a test, with copies of its configs as they are now."""
    frames = [frame for frame, _ in traceback.walk_stack(sys._getframe(2))][::-1]
    of_tests = [frame.f_code.co_filename.startswith(f'{TESTS}{os.sep}') for frame in frames]
    if True not in of_tests or False not in of_tests[of_tests.index(True) :]:
        return None
    entry = frames[of_tests.index(False, of_tests.index(True))]
    names, several, _, values = inspect.getargvalues(entry)
    name = entry.f_code.co_name
    owner = values.get(names[0]) if names[:1] in (['self'], ['cls']) else None
    function = entry.f_globals.get(name) if owner is None else getattr(owner, name, None)
    code = getattr(inspect.unwrap(getattr(function, '__func__', function)), '__code__', None)
    if code is not entry.f_code or inspect.isgeneratorfunction(function) or values.get(several):
        return None
    passed = {key: values[key] for key in names if key in values and values[key] is not owner}
    for key, parameter in inspect.signature(function).parameters.items():
        has_default = parameter.default is not parameter.empty
        if has_default and not isinstance(passed.get(key), READ_ANEW):
            del passed[key]  # the function has put something of its own there
    read = {id(run): cfg for run, cfg in RUN_CONFIGS}
    copies = {key: read.get(id(one), one) for key, one in passed.items()}
    copies = {key: copy.deepcopy(cfg) for key, cfg in copies.items() if isinstance(cfg, Config)}
    return FunctionCall(function, passed, copies)


def tool_refused(name: str, args: tuple, folder: object = '', message: str = '') -> None:
    """Record that a tool has ended by a message, that of the last error in this process if ''."""
    if message or ERRORS:
        message = message or str(ERRORS[-1].error)
        call = ToolCall(name, tuple(map(str, args)))
        REFUSALS.append(Refusal(message, str(folder or os.getcwd()), call))


def outcomes() -> list[tuple[str, str]]:
    """Do the remedies of what was recorded; what became of each, for a report of pytest's.

    Raises:
        AssertionError: after one of them the same message comes again, or a traceback.
    """
    refusals = [*REFUSALS]
    for error, folder, call in ERRORS:
        catcher = error.__traceback__
        if catcher and catcher.tb_frame.f_code.co_filename.startswith(f'{TESTS}{os.sep}'):
            refusals.append(Refusal(str(error), folder, call))
    ERRORS.clear()
    REFUSALS.clear()
    refusals = list({refusal.message: refusal for refusal in refusals}.values())
    found = [('without a remedy', one.message) for one in refusals if not remedies(one.message)]
    for refusal in [one for one in refusals if remedies(one.message)][:MOST]:
        for remedy in remedies(refusal.message):
            if remedy.environment and remedy.text in VARIABLES_SET:
                continue  # the same for whatever reads weights
            VARIABLES_SET.add(remedy.text)
            try:
                try_again(refusal, remedy)
                found.append(('remedy done', remedy.text))
            except NotDone as reason:
                found.append(('remedy not done', f'{remedy.text} ({reason})'))
    return found


def try_again(refusal: Refusal, remedy: Remedy) -> None:
    """Do a remedy and call again.

    Raises:
        NotDone: a test cannot do it.
        AssertionError: the same message comes again, or a traceback.
    """
    if refusal.call is None:
        raise NotDone('the call that it is for cannot be made again')
    if not Path(refusal.folder).is_dir():
        raise NotDone('its folder is gone')
    name, value = remedy.environment or ('', None)
    if value == '0' and name == 'TORCH_FORCE_WEIGHTS_ONLY_LOAD':
        raise NotDone('it lets the file run its code')
    with contextlib.chdir(refusal.folder), _no_run(), mock.patch.dict(os.environ):
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
        what = f'{remedy.text!r} of {refusal.message!r}'
        try:
            said = refusal.call.again(remedy, refusal.message)
        except (NotDone, AssertionError):
            raise
        except Checked:
            return
        except BaseException as error:
            raise AssertionError(f'{what} ends in {type(error).__name__}: {error}') from error
        assert said != refusal.message, f'{what} changes nothing'
        assert not any(text in said for text in OF_OPTIONS), f'{what} is refused: {said}'


@contextlib.contextmanager
def _no_run() -> Iterator[None]:
    """Let a run end where it would begin."""

    def begin(*_: object, **__: object) -> None:
        raise Checked

    with (
        mock.patch.object(Runner, 'from_cfg', begin),
        mock.patch.object(runs, 'call_tool', begin),
    ):
        yield


def call_tool(name: str, args: list[str]) -> tuple[str, str]:
    """What a tool prints, and the message by which it ends, '' where there is none."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        mock.patch.object(sys, 'argv', sys.argv),
    ):
        try:
            status = load_tool(name)(*args)
        except SystemExit as end:
            raise AssertionError(f'{name} {shlex.join(args)}: {err.getvalue()}') from end
        except Checked:
            status = 0
    return out.getvalue(), error_line(err.getvalue()) if status == 2 else ''


def error_line(stderr: str) -> str:
    """The message of a tool's last line."""
    return (stderr.splitlines() or [''])[-1].removeprefix('error: ')


def run_command(command: str) -> dict[str, object]:
    """Run a command that a message prints; the `--cfg-options` that it prints in turn.

    Raises:
        NotDone: it would take minutes, or change what is no test's own.
        AssertionError: it fails, and does not tell what to do.
    """
    first, *args = words(command)
    if first == 'pip':
        names = [word for word in args[1:] if not word.startswith('-')]
        raise NotDone(f'it installs {[Requirement(name).name for name in names]}')
    if first not in ('python', 'cbam-det') or args[0] == '-m':
        if first == 'python':
            raise NotDone('it takes minutes')
        subprocess.run(['sh', '-c', command], check=True, cwd='/', capture_output=True)
        return {}
    name, *args = args
    name = Path(name).stem.replace('-', '_')
    if name in ('train', 'test') or MINUTES & {*args}:
        load_tool(name).module.parse_args(args)
        raise NotDone('it takes minutes')
    if ROOT in (Path.cwd(), *Path.cwd().parents) and not any(map(os.path.isabs, args)):
        raise NotDone('it would write into the checkout')
    if name == 'make_digits':
        args += SMALL_DIGITS
    printed, message = call_tool(name, args)
    options: dict[str, object] = {}
    if message:
        if message.startswith('no study') and '--studies' not in args:
            raise NotDone("it is of a study of the test's own")
        inner = [remedy for remedy in remedies(message) if remedy.command != command]
        if not inner:
            raise Checked  # by another fault
        for remedy in inner:
            options |= run_command(remedy.command) if remedy.command else remedy.options
    for match in re.finditer('^ *--cfg-options (.*)', printed, re.MULTILINE):
        options |= parse_options(shlex.split(match[1]))
    return options
