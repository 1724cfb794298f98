"""What the server logs its hosts write, and nothing that is logged can do harm."""

import logging
import sys
import threading

import pytest

from commitcast.gateway.process.logs import KEPT_LINES, LINE_CHARACTERS, ROOT, LogForwarder
from commitcast.persistence.remote.frames import Log, pack

logger = logging.getLogger(f"{ROOT}.gateway.process.test")


class Hosts:
    """Hosts that are there or not, and what they were sent."""

    def __init__(self, forwarder: LogForwarder) -> None:
        self.lines: list[Log] = []
        self.are_there = True
        forwarder.forward_to(self._take)

    def _take(self, line: Log) -> bool:
        if self.are_there:
            pack(line)
            self.lines.append(line)
        return self.are_there


def test_a_line_goes_to_the_hosts_with_its_logger_and_level(forwarder: LogForwarder) -> None:
    hosts = Hosts(forwarder)

    logger.warning("%d of %s", 3, "them")

    assert hosts.lines == [Log(logger.name, logging.WARNING, "3 of them")]


def test_the_lines_of_others_and_those_below_a_warning_stay(forwarder: LogForwarder) -> None:
    hosts = Hosts(forwarder)

    logger.info("no")
    logging.getLogger("asyncio").debug("no")

    assert hosts.lines == []


def test_until_there_is_a_host_the_latest_lines_are_kept(forwarder: LogForwarder) -> None:
    for number in range(KEPT_LINES + 5):
        logger.warning("%d", number)

    assert [line.text for line in forwarder.take_kept()] == [str(number) for number in range(5, KEPT_LINES + 5)]
    assert forwarder.take_kept() == []
    hosts = Hosts(forwarder)
    hosts.are_there = False
    logger.warning("nobody is there again")
    assert [line.text for line in forwarder.take_kept()] == ["nobody is there again"]


def test_a_traceback_goes_along_and_a_long_line_is_cut(forwarder: LogForwarder) -> None:
    hosts = Hosts(forwarder)
    try:
        raise ValueError("x" * LINE_CHARACTERS)
    except ValueError:
        logger.exception("it failed")

    (line,) = hosts.lines
    assert line.text.startswith("it failed\nTraceback") and len(line.text) == LINE_CHARACTERS


def test_a_path_that_is_not_utf8_is_shown_escaped(forwarder: LogForwarder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(ROOT), "propagate", False)  # those who run the tests cannot pass it on
    hosts = Hosts(forwarder)

    # Not by the logger: pytest shows what it has, and cannot show this.
    forwarder.handle(logging.LogRecord(logger.name, logging.WARNING, "", 0, "cannot open %s", ("/\udcff.db",), None))

    assert hosts.lines[0].text == "cannot open /\\udcff.db"


def test_what_cannot_be_logged_does_not_end_what_logs_it(forwarder: LogForwarder) -> None:
    """As when the connection of a host fails at that moment."""

    def fails(line: Log) -> bool:
        raise OSError("a defect")

    forwarder.forward_to(fails)

    logger.warning("goes on")


def test_a_thread_that_fails_and_the_process_itself_are_logged(forwarder: LogForwarder) -> None:
    hosts = Hosts(forwarder)
    thread = threading.Thread(target=lambda: 1 / 0, name="defect")
    thread.start()
    thread.join()
    error = ValueError("no")
    sys.excepthook(ValueError, error, None)

    of_thread, of_process = hosts.lines
    assert "the thread <Thread(defect" in of_thread.text and "ZeroDivisionError" in of_thread.text
    assert of_process.text.startswith("the server process failed\n") and "ValueError: no" in of_process.text
    assert {line.level for line in hosts.lines} == {logging.CRITICAL}
