"""One attached host: its two connections, what it asks, and what it is asked.

Owns what a host may want of the server; `server.py` owns all hosts. On the loop of requests, unless a method says
otherwise. Must never wait for a host: it may be stopped.
"""

import logging
import secrets
from typing import TYPE_CHECKING, Final

from commitcast.gateway.process.requests import Requests
from commitcast.persistence.errors import HostError, LinkError
from commitcast.persistence.remote.asking import Asking
from commitcast.persistence.remote.frames import Abandon, Answer, Ask, Cast, Casting, Commit, Frame, Notify, Watch
from commitcast.persistence.remote.link import Link

if TYPE_CHECKING:
    from commitcast.gateway.process.doors import Door
    from commitcast.gateway.process.server import Server

logger: Final = logging.getLogger(__name__)

MAX_WATCHES: Final = 65_536
"""Agents of other hosts that one host follows or waits for at the same time."""


class Host:
    """One process with a runtime on the file; a process may have several."""

    def __init__(self, server: "Server", pid: int, runtime: str) -> None:
        """Make it; see `begin`.

        Args:
            server: of the file.
            pid: its process, as the kernel says.
            runtime: the same, as it names itself to its programs.
        """
        self.session = secrets.token_hex(16)
        self.pid = pid
        self.pidfd: int | None = None
        self.runtime = runtime
        self.has_abandoned = False
        self.is_gone = False
        self.casts = False
        """Whether it knows that there are subscribers, and casts; else the server does it at once."""
        self.has_left_the_writer = False
        """Whether nothing that still comes of it is to be written. The writer's thread."""
        self.door: Door | None = None
        self.templates: frozenset[str] = frozenset()
        """What clients may launch in it."""
        self.asking = Asking(self.send, HostError)
        self.watches: set[str] = set()
        self.requests: Link | None = None
        self.commits: Link | None = None
        self._server = server
        self._requests = Requests(self, server)

    def __repr__(self) -> str:
        return f"<Host {self.pid} {self.session[:8]}>"

    # Any thread.

    def send(self, frame: Frame) -> None:
        """Send a frame that is not the answer to a batch."""
        if self.requests is not None:
            self.requests.send(frame)

    def tell_casting(self, is_on: bool) -> None:
        """Tell it whether there are subscribers; it says when it knows."""
        self.casts = self.casts and is_on
        self.send(Casting(is_on))

    def answer(self, frame: Frame) -> None:
        """Send the answer to a batch."""
        if self.commits is not None:
            self.commits.send(frame)

    def end(self) -> None:
        """End both connections."""
        for link in (self.requests, self.commits):
            if link is not None:
                link.end()

    # On the writer's loop.

    def on_commit(self, frame: Frame, size: int) -> None:
        """Take a frame of the connection for commits."""
        if not isinstance(frame, Commit):
            raise LinkError(f"a {type(frame).__name__} came on the connection for commits")
        if not self.has_left_the_writer:
            self._server.writer.put(self, frame, size)

    # On the loop of requests.

    def on_request(self, frame: Frame, _: int) -> None:
        """Take a frame of the connection for requests."""
        if self.is_gone:  # it was noticed before its last frames
            return
        match frame:
            case Cast(positions):
                self._server.casting.cast(self, positions)
            case Casting(is_on):
                self.casts = is_on
            case Notify():
                self._server.notify(frame)
            case Ask():
                self._requests.perform(frame)
            case Answer():
                self.asking.on_answer(frame)
            case Watch(agent, is_on):
                self._watch(agent, is_on)
            case Abandon():
                self.has_abandoned = True
                self._server.abandon()
            case _:
                raise LinkError(f"a {type(frame).__name__} came on the connection for requests")

    def _watch(self, agent: str, is_on: bool) -> None:
        if is_on:
            if len(self.watches) >= MAX_WATCHES:
                raise LinkError(f"more than {MAX_WATCHES:,} agents are watched")
            self.watches.add(agent)
        else:
            self.watches.discard(agent)
        self._server.watch(self, agent, is_on)

    def on_end(self, error: Exception | None) -> None:
        """Take note that one of its connections has ended."""
        if error is not None:
            logger.warning("the connection with the process %d was ended: %s", self.pid, error)
        self._server.loop.call(lambda: self._server.host_gone(self))
