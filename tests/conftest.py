"""What holds for every test: a random order that can be repeated, nothing left behind, and no quiet skip in CI."""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from processes import children
from waiting import wait_until

SEED = int(os.environ.get("COMMITCAST_SEED") or random.SystemRandom().randrange(2**32))
os.environ["COMMITCAST_SEED"] = str(SEED)  # for those who run a part of the tests each: the order is theirs too


def pytest_configure() -> None:
    """Hear signals that were ignored by what started the tests (`nohup`, a shell's `&`): children inherit that too."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_report_header() -> str:
    return f"commitcast: random order, COMMITCAST_SEED={SEED}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    random.Random(SEED).shuffle(items)
    if not config.option.markexpr:  # the ordinary suite; `-m slow` runs the others
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Make a skipped test a failure where everything is expected to be there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("COMMITCAST_NO_SKIP") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.is_alive()}


def _files() -> set[str]:
    """The sockets, pipes and files that are open, by what they are."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(os.readlink(link))
        except OSError:
            continue
    return {name for name in found if not name.startswith(("/dev/", "/proc/"))}


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """No thread, child process or open file outlives its test."""
    before = (_threads(), children(), _files())
    yield
    for what, look, known in zip(("threads", "processes", "files"), (_threads, children, _files), before, strict=True):
        left = partial(_left, look, known)
        wait_until(partial(_none, left), f"{what} to be gone", show=left)


def _left(look: Callable[[], set[str]], known: set[str]) -> set[str]:
    return look() - known


def _none(left: Callable[[], set[str]]) -> bool:
    return not left()
