"""What holds for every test: a random order that can be repeated, nothing left behind, and no quiet skip in CI."""

import gc
import inspect
import os
import random
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

from commitcast.actors import AgentRuntime, form
from commitcast.actors.form import IN_PROCESS, PROCESS
from commitcast.persistence.remote import spawning
from commitcast.persistence.sqlite.journal import DELETE
from examples import EVERYTHING, THE_REST, examples
from modes import FORMS, MODES, used_mode
from processes import children
from waiting import wait_until

# Hundreds of Pythons are started. They share what is compiled, also where bytecode is not written otherwise.
gc.disable()  # until all tests are loaded; for good in a process that only hands them out
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(__file__).parent.parent / "build" / "pycache"))
sys.dont_write_bytecode = False
sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"]

# How long an example takes is the machine's business.
settings.register_profile(
    "untimed", max_examples=examples(30, 100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")

SEED = int(os.environ.get("COMMITCAST_SEED") or random.SystemRandom().randrange(2**32))
os.environ["COMMITCAST_SEED"] = str(SEED)  # for those who run a part of the tests each: the order is theirs too


BROWSER = "tests/web/test_page.py"
TOGETHER = {
    BROWSER,
    "tests/test_architecture.py",  # the syntax trees of all modules
    "tests/tools/test_protocol_documents.py",  # schemas
    "tests/web/test_conformance_js.py",  # a Node
}
"""Files whose tests share something that takes long to start or to make."""
TESTS_PER_DOT = 25
MANY_SHAPES = 6
"""The ordinary run takes this many shapes of a test that is not marked otherwise."""
_passed = 0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of files in both journal modes, and of runtimes in both forms, except those of what only one has."""
    marked = metafunc.definition.get_closest_marker
    has_modes = any("journal_mode" in marker.args[0] for marker in metafunc.definition.iter_markers("parametrize"))
    if marked("both_modes") and not marked("delete_mode") and not has_modes:
        metafunc.parametrize("journal_mode", MODES, indirect=True)
    needs_own_process = marked("own_process") or "mock_gateway" in inspect.signature(metafunc.function).parameters
    if marked("both_forms") and not needs_own_process:
        metafunc.parametrize("server", FORMS, indirect=True)


@pytest.fixture(autouse=True)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The form in which this test's runtimes serve their file, unless they are given one."""
    chosen: str = getattr(request, "param", os.environ.get("COMMITCAST_SERVER", IN_PROCESS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form, "PREFERRED", chosen)
        patch.setattr(spawning, "LINGER_S", 0.0)
        yield chosen


@pytest.fixture
def agent_runtime(tmp_path: Path, server: str, request: pytest.FixtureRequest) -> Iterator[AgentRuntime]:
    """A running runtime, as users' tests have it; in a server process it has no gateway."""
    gateway = None if server == PROCESS else request.getfixturevalue("mock_gateway")
    with AgentRuntime(tmp_path / "agents.db", gateway=gateway) as runtime:
        yield runtime


@pytest.fixture(autouse=True)
def journal_mode(request: pytest.FixtureRequest) -> Iterator[str]:
    """The journal mode in which this test's stores and runtimes open files."""
    mode: str = getattr(request, "param", DELETE)
    with used_mode(mode):
        yield mode


def pytest_configure() -> None:
    """Hear signals that were ignored by what started the tests (`nohup`, a shell's `&`): children inherit that too."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def runtime_folder() -> Iterator[None]:
    """Where servers put their sockets: those that are killed leave them behind."""
    with tempfile.TemporaryDirectory(prefix="commitcast-tests-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield


def pytest_report_header() -> str:
    return f"commitcast: random order, COMMITCAST_SEED={SEED}"


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _mark_what_is_cut_down(items)
    left_out = set() if EVERYTHING else _not_drawn(items)
    if THE_REST:
        left_out = {item for item in items if _is_of_few_shapes(item)} - _not_drawn(items)
    if "slow" not in config.option.markexpr:
        left_out |= {item for item in items if item.get_closest_marker("slow")}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]
    random.Random(SEED).shuffle(items)
    items.sort(key=lambda item: not item.nodeid.startswith(BROWSER))  # first: they take longest


def pytest_collection_finish() -> None:
    """Keep the collector from going through all that is loaded, in each of the hundreds of tests that collect."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # a test's own garbage is little: by default it took a fifteenth of the time
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Give the tests of a file that share something costly to one process, and all others to any."""

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # as above
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file in TOGETHER else nodeid

    return Scheduling(config, log)


def _not_drawn(items: list[pytest.Item]) -> set[pytest.Item]:
    """Return the shapes of tests marked `sampled(n)` that are not among the `n` that the seed draws.

    Below 1, `n` is the probability that one is drawn. With `of_file=True` the family of shapes is all marked tests of
    the file.
    """
    families: dict[str, list[pytest.Item]] = {}
    for item in items:
        if marker := item.get_closest_marker("sampled"):
            end = "::" if marker.kwargs.get("of_file") else "["
            families.setdefault(item.nodeid.partition(end)[0], []).append(item)
    left_out: set[pytest.Item] = set()
    for name, shapes in families.items():
        marker = shapes[0].get_closest_marker("sampled")
        assert marker is not None
        draw = random.Random(f"{SEED} {name}")
        draw.shuffle(shapes)
        count = marker.args[0] if marker.args else len(shapes)
        left_out.update(shapes[count if count >= 1 else int(draw.random() < count) :])
    return left_out


def _is_of_few_shapes(item: pytest.Item) -> bool:
    """Say whether the ordinary run shows all of what it takes of this test: not if it takes few examples."""
    marker = item.get_closest_marker("sampled")
    return marker is not None and bool(marker.args) and not is_hypothesis_test(getattr(item, "obj", None))


def _mark_what_is_cut_down(items: list[pytest.Item]) -> None:
    """Mark what has examples, or more than `MANY_SHAPES` of one test, as `sampled`, unless it is marked."""
    families: dict[str, list[pytest.Item]] = {}
    for item in items:
        if not item.get_closest_marker("sampled"):
            families.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for shapes in families.values():
        for item in shapes:
            if len(shapes) > MANY_SHAPES:
                item.add_marker(pytest.mark.sampled(MANY_SHAPES))
            elif is_hypothesis_test(getattr(item, "obj", None)):
                item.add_marker(pytest.mark.sampled)


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
    """Print one dot for many tests that passed: thousands of them would push what failed off the screen."""
    global _passed
    if report.when != "call" or not report.passed or hasattr(report, "wasxfail"):
        return None
    _passed += 1
    return "passed", "" if _passed % TESTS_PER_DOT else ".", "PASSED"


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
    for descriptor in os.listdir("/proc/self/fd"):  # not by `Path`, which takes twice as long: it is done for each test
        try:
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
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
