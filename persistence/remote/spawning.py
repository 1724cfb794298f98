"""Starting the server process of a file.

It is a new interpreter and never a fork, so it needs no guard in the host's main module, and inherits neither its
threads nor its open files. It gets a session of its own, so that the signals of a terminal do not reach it, a minimal
environment, and its configuration through a pipe: nothing of that can be seen in a list of processes. It is not left a
child of the host: other hosts need it when that one is ended with all that it has started.
"""

import errno
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from commitcast.persistence.errors import LinkError, ServerStartError, StoreOpenError
from commitcast.persistence.remote.failures import error_of
from commitcast.persistence.remote.frames import Deframer, Frame, Refused, Settings, Welcome, unpack
from commitcast.persistence.sqlite.journal import WAL

logger: Final = logging.getLogger(__name__)

LINGER_S: Final = 1.0
"""How long a server stays after its last host: programs that follow one another need not start another."""
KEPT_VARIABLES: Final = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONHOME",
    "PYTHONPYCACHEPREFIX",
    "PYTHONUSERBASE",
    "TEMP",
    "TMP",
    "TMPDIR",
    "TZ",
    "XDG_RUNTIME_DIR",
)
"""Of the environment: what an interpreter needs to start, and where files are put. No marks of agents, no keys."""
_READ_BYTES: Final = 64 * 1024
_START: Final = (
    "import os; os.fork() and os._exit(0); "  # an orphan: nobody ends it with the processes of a host, or waits for it
    "import json, sys; c = json.loads(sys.stdin.buffer.readline()); "
    "sys.path[:] = [os.fsdecode(place.encode('latin-1')) for place in c.pop('path')]; "
    "from commitcast.gateway.process.main import main; main(c)"
)
"""One line, because another thread of the host may fork meanwhile: its child keeps the pipe open."""


@contextmanager
def spawn_turn(path: Path) -> Iterator[bool]:
    """Claim the start of a file's server for as long as the block; give whether no other process has claimed it.

    Only to save the others an interpreter that finds the lock taken. The name is of the kernel's abstract namespace
    (unix(7)): it leaves nothing behind, also if this process is killed.
    """
    name = hashlib.sha256(os.fsencode(path)).hexdigest()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as claim:
        try:
            claim.bind(f"\0commitcast-{os.geteuid()}-{name}")
        except OSError as error:
            yield error.errno != errno.EADDRINUSE
        else:
            yield True


def spawn(path: Path, settings: Settings) -> bool:
    """Start the server of a file, and wait until hosts can connect. Blocks for as long as it takes to open the file.

    Returns:
        False if another process was faster and has the file.

    Raises:
        StoreOpenError: the file cannot be used.
        ServerStartError: the process could not be started, or ended.
    """
    configuration = {
        "path": [_sendable(place) for place in _absolute(sys.path)],
        "database": _sendable(path),
        "linger_s": 0.0 if settings.journal_mode == WAL else LINGER_S,  # the log beside the file goes with it
        **msgspec.to_builtins(settings),
    }
    try:
        process = subprocess.Popen(
            [sys.executable, *_options(), "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=_environment(os.environ),
            start_new_session=True,
        )
    except OSError as error:
        raise ServerStartError(str(path), f"its server process cannot be started ({error})") from error
    try:
        return _hear(process, path, json.dumps(configuration).encode() + b"\n")
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        process.wait()  # it has forked the server, and ended


def _options() -> list[str]:
    """Return the interpreter's options: of the host's those that say which folders its code may come from."""
    if sys.flags.isolated:
        return ["-I"]
    return ["-P", *(["-E"] if sys.flags.ignore_environment else []), *(["-s"] if sys.flags.no_user_site else [])]


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name in KEPT_VARIABLES}


def _absolute(places: Iterable[Any]) -> Iterator[str]:
    """Yield where modules are looked for, as a process in another folder has to name it."""
    for place in places:
        if isinstance(place, str):
            with suppress(OSError):  # a relative one, of a folder that is gone
                yield os.path.abspath(place)


def _sendable(path: str | Path) -> str:
    """Return the bytes of a path as text: the two interpreters may decode them in different ways."""
    return os.fsencode(path).decode("latin-1")


def _hear(process: "subprocess.Popen[bytes]", path: Path, configuration: bytes) -> bool:
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        process.stdin.write(configuration)
        process.stdin.close()
    except BrokenPipeError:  # it has ended: its error output says why
        pass
    frame = _first_frame(process.stdout.fileno())
    match frame:
        case Welcome(pid=pid):
            process.wait()
            _reap_if_it_is_ours(pid)
            return True
        case Refused(failure) if failure is not None:
            error = error_of(failure)
            raise error if isinstance(error, StoreOpenError) else ServerStartError(str(path), str(error))
        case Refused():
            return False
        case _:
            why = process.stderr.read(_READ_BYTES).decode(errors="replace").strip().rpartition("\n")[2]
            raise ServerStartError(str(path), f"its server process ended at once: {why or 'it was killed'}")


def _first_frame(descriptor: int) -> Frame | None:
    deframer = Deframer()
    while data := os.read(descriptor, _READ_BYTES):
        try:
            for payload in deframer.feed(memoryview(data)):
                return unpack(payload)
        except LinkError:
            return None
    return None


def _reap_if_it_is_ours(pid: int) -> None:
    """Have a thread wait for a server that was left to this process, which is process 1 or a subreaper (prctl(2))."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        threading.Thread(target=_reap, args=(pid,), name="server-reaper", daemon=True).start()
    except (ChildProcessError, RuntimeError):  # the latter: there are too many threads
        pass


def _reap(pid: int) -> None:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED)
    except ChildProcessError:  # other code of this program waits for all children
        pass
