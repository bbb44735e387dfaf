"""Time a detector in a process of its own, which returns freed memory as mmdet's tools do."""

from __future__ import annotations

import contextlib
import multiprocessing
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from cbam_det.studies.timing import Calls, detector_calls


def calls_in_own_process(*args: Any) -> Calls:
    """The calls of `detector_calls` in a new process, which ends with this one."""
    context = multiprocessing.get_context('spawn')
    connection, other_end = context.Pipe()
    context.Process(target=_serve, args=(other_end, *args), daemon=True).start()
    other_end.close()

    def call(name: str) -> Any:
        connection.send(name)
        return connection.recv()

    return {name: partial(call, name) for name in ('train', 'infer', 'peak')}


def _serve(connection: Connection, *args: Any) -> None:
    """Do the calls that another process sends by their names; send their results back."""
    calls = detector_calls(*args)
    with contextlib.suppress(EOFError):
        while True:
            name = connection.recv()
            result = calls[name]()
            connection.send(result if name == 'peak' else None)
