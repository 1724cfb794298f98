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
from commitcast.persistence.remote.spawned import Spawned
from commitcast.persistence.sqlite.journal import WAL
from commitcast.persistence.sqlite.lock import is_locked

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
TELL_S: Final = 30.0
"""For a server to read its configuration. It does so at once."""
LOOK_S: Final = 0.5
"""Between two looks whether a server that says nothing is at work: its file may need a long migration."""
LOOKS: Final = 20
"""In a row without its lock, after which it is taken for dead: it takes the lock as soon as it is loaded."""
_START: Final = (
    "import os; os.closerange(3, os.sysconf('SC_OPEN_MAX')); os.chdir('/'); "
    # An orphan: nobody ends it with the processes of a host, or waits for it.
    "os.fork() and os._exit(0); os.setsid(); "
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
    command = [sys.executable, *_options(), "-c", _START]
    try:
        process = Spawned(command, _environment(os.environ))
    except OSError as error:
        raise ServerStartError(str(path), f"its server process cannot be started ({error})") from error
    try:
        return _hear(process, path, json.dumps(configuration).encode() + b"\n")
    finally:
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


def _hear(process: Spawned, path: Path, configuration: bytes) -> bool:
    process.tell(configuration, TELL_S)
    frame = _first_frame(process, path)
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
            why = process.complaint().strip().rpartition("\n")[2]
            raise ServerStartError(str(path), f"its server process ended at once: {why or 'it did not say why'}")


def _first_frame(process: Spawned, path: Path) -> Frame | None:
    deframer = Deframer()
    looks = 0
    while looks < LOOKS and (data := process.hear(LOOK_S)) != b"":
        looks = looks + 1 if data is None and not is_locked(path) else 0
        try:
            for payload in deframer.feed(memoryview(data or b"")):
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
