"""A server in the test's own process."""

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from commitcast.gateway.process.logs import ROOT, LogForwarder
from commitcast.gateway.process.server import Server
from listening_server import Listening, listening_server, local_server


@pytest.fixture
def forwarder(monkeypatch: pytest.MonkeyPatch) -> Iterator[LogForwarder]:
    """What forwards the log of this process, for as long as the test."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    level = logging.getLogger(ROOT).level
    forwarder = LogForwarder()
    yield forwarder
    logging.getLogger(ROOT).removeHandler(forwarder)
    logging.getLogger(ROOT).setLevel(level)


@pytest.fixture
def local(tmp_path: Path, forwarder: LogForwarder) -> Iterator[Server]:
    """A server whose writer runs, and that has no socket."""
    with local_server(tmp_path / "a.db", forwarder) as server:
        yield server


@pytest.fixture
def listening(tmp_path: Path, forwarder: LogForwarder) -> Iterator[Listening]:
    """A server that listens."""
    with listening_server(tmp_path / "a.db", forwarder) as listening:
        yield listening
