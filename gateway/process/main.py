"""The main of the server process. Started by a host, with its configuration on standard input; see `remote.spawning`.

Takes the file, recovers it, and only then listens. Tells the host on standard output how that went, in one frame, and
closes its standard streams. Ends with its last host: it lets nobody in, removes the socket, and then gives the lock
back, so that a host that finds the lock free can start another server.
"""

import logging
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any, Final

from commitcast.gateway.process.listening import remove_leftover
from commitcast.gateway.process.logs import LogForwarder
from commitcast.gateway.process.server import Server
from commitcast.persistence.errors import StoreLockedError
from commitcast.persistence.recovery.recover import recover
from commitcast.persistence.remote.failures import failure_of
from commitcast.persistence.remote.frames import Refused, Settings, Welcome, pack
from commitcast.persistence.sqlite.lock import STARTING
from commitcast.persistence.sqlite.store import SqliteStore

logger: Final = logging.getLogger(__name__)

HOSTS_S: Final = 1.0
"""For hosts whose server was killed to kill the programs of their agents: it takes them some milliseconds."""
SWITCH_S: Final = 0.001
"""Between two threads that both compute: the writer must not wait 5 ms, as long as a commit takes, for a gateway."""
_LIMITS: Final = {
    resource.RLIMIT_NOFILE: 65_536,  # each subscriber is one
    resource.RLIMIT_FSIZE: resource.RLIM_INFINITY,
    resource.RLIMIT_CPU: resource.RLIM_INFINITY,
    resource.RLIMIT_AS: resource.RLIM_INFINITY,
    resource.RLIMIT_DATA: resource.RLIM_INFINITY,
}
"""Of what this process uses, each with what is enough."""


def main(configuration: dict[str, Any]) -> None:
    """Serve one file until its last host is gone.

    Args:
        configuration: `database`, the bytes of an absolute path as Latin-1; `journal_mode`; `linger_s`.
    """
    report = _Report()
    _close_standard_streams()
    _lift_limits()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the host's may block those that ask to end
    sys.setswitchinterval(SWITCH_S)
    forwarder = LogForwarder()
    settings = Settings(journal_mode=configuration["journal_mode"])
    database = os.fsdecode(configuration["database"].encode("latin-1"))
    store = SqliteStore(database, journal_mode=settings.journal_mode, note=STARTING)
    try:
        store.open()
        try:
            _serve(store, settings, configuration["linger_s"], forwarder, report)
        finally:
            store.close()
    except StoreLockedError:  # another process was faster: the host finds out which
        report.tell(Refused(None))
    except Exception as error:  # of any kind: the host raises it
        if report.is_told:
            raise
        report.tell(Refused(failure_of(error)))


def _serve(store: SqliteStore, settings: Settings, linger_s: float, forwarder: LogForwarder, report: "_Report") -> None:
    recovered = recover(store, hosts_s=HOSTS_S)
    server = Server(store, settings, recovered, linger_s, forwarder, store.settle, store.announce)
    store.on_waiting = server.on_waiting
    try:
        remove_leftover(store.note_found)
        server.listen()
        report.tell(Welcome("", os.getpid(), 0, False))
        server.run()
    finally:
        server.stop_listening()
        server.close()


class _Report:
    """What the host that has started this process waits for."""

    def __init__(self) -> None:
        self._pipe = os.dup(1)
        self.is_told = False

    def tell(self, frame: Refused | Welcome) -> None:
        """Tell how the start went. Once."""
        self.is_told = True
        with suppress(OSError):  # the host is gone; others may come
            os.write(self._pipe, pack(frame))
        os.close(self._pipe)


def _close_standard_streams() -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)


def _lift_limits() -> None:
    """Lift, as far as the system allows, what the host that has started this process is limited to: others are not."""
    os.umask(0o077)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    for limit, enough in _LIMITS.items():
        _, hard = resource.getrlimit(limit)
        if hard != resource.RLIM_INFINITY and (enough == resource.RLIM_INFINITY or hard < enough):
            with suppress(OSError, ValueError):  # it takes a privilege
                resource.setrlimit(limit, (enough, enough))
                continue
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (hard, hard))
