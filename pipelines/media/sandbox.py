"""A function in a child process that may die: a crash, a hang or too much memory costs one call.

Media libraries crash on damaged files. The child is an ordinary subprocess, so that neither Ray's worker nor its
threads are forked. The kernel ends it when a call takes too long (SIGALRM, which needs no cooperation from code that
hangs in C), and its address space is limited.
"""

import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_START = "import sys; from pipelines.media.sandbox import serve; serve(int(sys.argv[1]))"
_GIB = 2**30


class Crashed(RuntimeError):
    """The child died during a call; the message is one line that says how."""


class NotStarted(RuntimeError):
    """The child died before its first call, or the factory raised an error: no call can succeed."""


class Sandbox:
    """Calls a function in a child process, which is replaced when it dies and after `calls_per_child` calls.

    `factory` is a pickled callable without arguments. The child calls it once; its result is the function. A call may
    take `timeout_s` seconds, and the child `memory_gib` GiB of address space. Not thread-safe. Raise ValueError for
    limits that are not positive.
    """

    def __init__(self, factory: bytes, *, timeout_s: int, memory_gib: float, calls_per_child: int = 200) -> None:
        if timeout_s < 1 or memory_gib <= 0 or calls_per_child < 1:
            raise ValueError(
                f"timeout_s and calls_per_child must be >= 1, memory_gib > 0; "
                f"got {timeout_s}, {calls_per_child}, {memory_gib}"
            )
        self._factory = factory
        self._timeout_s = timeout_s
        self._memory = int(memory_gib * _GIB)
        self._calls_per_child = calls_per_child
        self._calls = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def __call__(self, *args: Any) -> Any:
        """Return the function's result, or raise its exception, with the child's traceback as a note.

        Raise Crashed when the child dies during the call, NotStarted when no child starts.
        """
        if self._calls >= self._calls_per_child:
            self.close()
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        self._calls += 1
        try:
            self._pipe.send(args)
            done, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise Crashed(self._cause_of_death()) from error
        if not done:
            raise value
        return value

    def close(self) -> None:
        """End the child process; the next call starts another."""
        if self._pipe is not None:
            self._pipe.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._child, self._pipe, self._calls = None, None, 0

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                stdin=subprocess.DEVNULL,
            )
        self._pipe = Connection(ours.detach())
        try:
            self._pipe.send((self._factory, self._timeout_s, self._memory))
            ready, error = self._pipe.recv()
        except (EOFError, ConnectionError):
            ready, error = False, f"exit code {self._child.wait()}"
        if not ready:
            self.close()
            raise NotStarted(f"the media process does not start: {error}")

    def _cause_of_death(self) -> str:
        assert self._child is not None
        code = self._child.wait()
        self.close()
        if code == -signal.SIGALRM:
            return f"took longer than {self._timeout_s} s"
        return (
            f"media process died of {signal.Signals(-code).name}" if code < 0 else f"media process exited with {code}"
        )


def serve(descriptor: int) -> None:
    """Serve calls in the child process until the other end of the socket, given by its descriptor, is closed."""
    pipe = Connection(descriptor)
    pickled, timeout_s, memory = pipe.recv()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory if most == resource.RLIM_INFINITY else min(memory, most), most))
    try:
        function: Callable[..., Any] = pickle.loads(pickled)()
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))
        raise
    pipe.send((True, ""))
    while True:
        try:
            args = pipe.recv()
        except EOFError:
            return
        signal.alarm(timeout_s)
        try:
            reply = (True, function(*args))
        except MemoryError:
            reply = (False, Crashed(f"needs more than {memory / _GIB:g} GiB of memory"))
        except Exception as error:  # noqa: BLE001  # sent to the caller, who raises it
            error.add_note(traceback.format_exc())
            reply = (False, error)
        finally:
            signal.alarm(0)
        pipe.send(reply)
