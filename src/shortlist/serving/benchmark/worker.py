"""A Python process of the benchmark's own that obeys commands, a line of JSON each: `load` and `limit`."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Any

from shortlist.errors import ServerError
from shortlist.serving.triton import one_thread_each


class Worker:
    """The other end of `python -m MODULE ARGUMENTS`. Use as a context manager."""

    def __init__(self, module: str, *arguments: object) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            env=one_thread_each(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Worker:
        try:
            self.result()  # it is ready
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with contextlib.suppress(OSError):
            self._process.communicate()

    def ask(self, **command: Any) -> Any:
        """Send a command and wait for its answer."""
        self.begin(**command)
        return self.result()

    def begin(self, **command: Any) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def result(self) -> Any:
        """The answer to a command. Raises ServerError when the process ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ServerError(f"{self._module} ended with exit code {self._process.wait()}; what it printed says why")
        return json.loads(line)
