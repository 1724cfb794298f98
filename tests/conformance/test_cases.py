"""The conformance suite, played against our own server and our own clients; and proof that its cases can fail."""

import ast
import asyncio
import copy
import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

import client_runner
import link
from cases import CASES, SUBPROTOCOL, Case, Fields, load_cases
from client_runner import ClientFailed, ClientUnderTest, run_client_case
from command import CommandServer
from commitcast.actors.form import PROCESS
from commitcast.gateway import BlockingSubscription, Subscription, SubscriptionError, subscribe, subscribe_blocking
from commitcast.gateway.client import reconnect
from commitcast.gateway.protocol import frames
from lanes import Lanes
from matching import Mismatch, fill, match
from our_server import OurServer
from server_runner import run_server_case
from stores import AT
from waiting import SLOWNESS

ROOT: Final = Path(__file__).parents[2]
TIMEOUT_S: Final = 5.0 * SLOWNESS
IN_VAIN_S: Final = 0.3 * SLOWNESS
"""For what will not come: in a changed case, or with a known defect."""
SERVER: Final = load_cases("server")
CLIENT: Final = load_cases("client")
OURS: Final = (sys.executable, str(ROOT / "tests/conformance/our_server.py"))
"""Starts our server in a process of its own."""
RUNNER: Final = [
    path
    for path in sorted(Path(__file__).parent.glob("*.py"))
    if path.name != "our_server.py" and not path.name.startswith("test_")
]
"""The modules that are copied to test a server elsewhere."""
EXPECTING: Final = {"expect", "stream", "yields", "resubscribes"}
"""Steps that compare; without the last of them something is left over at the end."""


# Our server.


@pytest.mark.sampled(40)
@pytest.mark.parametrize("case", SERVER, ids=lambda case: case.name)
def test_our_server_passes(tmp_path: Path, case: Case, request: pytest.FixtureRequest) -> None:
    expect_defect(case, request)
    server = CommandServer(OURS, tmp_path) if "kill" in case.needs else OurServer(tmp_path)
    asyncio.run(run_server_case(case, server, timeout_s=TIMEOUT_S))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("server", [PROCESS], indirect=True)
@pytest.mark.parametrize("case", [case for case in SERVER if "kill" not in case.needs], ids=lambda case: case.name)
def test_our_server_passes_in_a_process_of_its_own(tmp_path: Path, case: Case, request: pytest.FixtureRequest) -> None:
    expect_defect(case, request)
    asyncio.run(run_server_case(case, OurServer(tmp_path), timeout_s=TIMEOUT_S))


# Our clients.


@pytest.fixture
def comes_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "BACKOFF_S", (0.005, 0.02))
    monkeypatch.setattr(reconnect, "QUICK_S", 0.005)


def options_of(given: Fields) -> Fields:
    """The arguments of `subscribe` for what a case gives."""
    options: Fields = {name: value for name, value in given.items() if name not in ("agent", "tokens", "takes")}
    if "tokens" in given:
        options["token"] = iter(given["tokens"]).__next__
    return options


def fields_of(item: frames.Item) -> Fields:
    """A message as it stood on the wire."""
    fields: Fields = msgspec.to_builtins(item)
    return fields


class OurFollower:
    """What both of our clients have in common."""

    def __init__(self, subscription: Subscription | BlockingSubscription) -> None:
        self._subscription = subscription

    async def standing(self) -> Fields:
        """Return where it stands."""
        of = self._subscription
        return {"cursor": of.cursor, "epoch": of.epoch, "status": of.status, "skipped": of.skipped}


class AsyncFollower(OurFollower):
    """The asynchronous client."""

    def __init__(self, subscription: Subscription) -> None:
        super().__init__(subscription)
        self._items = aiter(subscription)
        self._ending = subscription.aclose
        self._taking: asyncio.Task[Any] | None = None

    async def take(self) -> Fields | None:
        """Return the next message."""
        self._taking = asyncio.ensure_future(anext(self._items))
        try:
            return fields_of(await self._taking)
        except StopAsyncIteration:
            return None
        except SubscriptionError as error:
            raise ClientFailed(str(error.error_code)) from error

    async def close(self) -> None:
        """End it."""
        if self._taking is not None and not self._taking.done():
            self._taking.cancel()
            await asyncio.wait([self._taking])
        await self._ending()


class BlockingFollower(OurFollower):
    """The client for plain threads."""

    def __init__(self, subscription: BlockingSubscription) -> None:
        super().__init__(subscription)
        self._items = iter(subscription)
        self._ending = subscription.close

    async def take(self) -> Fields | None:
        """Return the next message."""
        try:
            item = await asyncio.to_thread(next, self._items, None)
        except SubscriptionError as error:
            raise ClientFailed(str(error.error_code)) from error
        return None if item is None else fields_of(item)

    async def close(self) -> None:
        """End it."""
        await asyncio.to_thread(self._ending)


class AsyncClient:
    """Makes the asynchronous client."""

    def follow(self, url: str, given: Fields) -> AsyncFollower:
        """Subscribe."""
        return AsyncFollower(subscribe(url, given["agent"], **options_of(given)))


class BlockingClient:
    """Makes the client for plain threads."""

    def follow(self, url: str, given: Fields) -> BlockingFollower:
        """Subscribe."""
        return BlockingFollower(subscribe_blocking(url, given["agent"], **options_of(given)))


@pytest.mark.sampled(60)
@pytest.mark.parametrize("client", [AsyncClient(), BlockingClient()], ids=["async", "blocking"])
@pytest.mark.parametrize("case", CLIENT, ids=lambda case: case.name)
@pytest.mark.usefixtures("comes_back_at_once")
def test_our_clients_pass(case: Case, client: ClientUnderTest, request: pytest.FixtureRequest) -> None:
    expect_defect(case, request)
    asyncio.run(run_client_case(case, client, timeout_s=TIMEOUT_S))


def expect_defect(case: Case, request: pytest.FixtureRequest) -> None:
    if case.known_defect is not None:
        request.node.add_marker(pytest.mark.xfail(reason=case.known_defect, raises=Mismatch, strict=True))


# The cases themselves.


def mutants(case: Case) -> Iterator[Case]:
    """The case without its last expectation, and with each of them changed."""
    expecting = [number for number, step in enumerate(case.steps) if EXPECTING & set(step)]
    last = expecting[-1]
    yield dataclasses.replace(case, steps=[*case.steps[:last], *case.steps[last + 1 :]])
    for number in expecting:
        changed = copy.deepcopy(case.steps)
        if spoil(changed[number][next(iter(EXPECTING & set(changed[number])))]):
            yield dataclasses.replace(case, steps=changed)


def spoil(pattern: Any) -> bool:
    """Change the last value in a pattern; return whether there was one."""
    places = reversed(list(pattern.items()) if isinstance(pattern, dict) else list(enumerate(pattern)))
    for place, value in places:
        if isinstance(value, dict | list):
            if spoil(value):
                return True
        elif not str(place).startswith("$"):
            pattern[place] = f"not {value}" if isinstance(value, str) else -7 if value is None else value + 1_000
            return True
    return False


async def survivors(case: Case, play: Callable[[Case], Awaitable[None]]) -> list[list[Fields]]:
    """The steps of each mutant that nothing is found wrong with."""
    left = []
    for mutant in mutants(case):
        try:
            await play(mutant)
        except Mismatch:
            continue
        left.append(mutant.steps)
    return left


def comparing(cases: list[Case], every: int) -> list[Case]:
    """A sample of the cases that compare something."""
    quick = [case for case in cases if "kill" not in case.needs]
    return [case for case in quick if any(EXPECTING & set(step) for step in case.steps)][::every]


@pytest.fixture
def looks_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    for runner in (link, client_runner):
        monkeypatch.setattr(runner, "QUIET_S", 0.1 * SLOWNESS)


@pytest.mark.usefixtures("looks_closely")
@pytest.mark.parametrize("case", comparing(SERVER, 20), ids=lambda case: case.name)
def test_a_server_case_fails_without_its_last_expectation_and_with_any_one_changed(tmp_path: Path, case: Case) -> None:
    folders = (tmp_path / str(number) for number in itertools.count())

    async def play(mutant: Case) -> None:
        folder = next(folders)
        folder.mkdir()
        await run_server_case(mutant, OurServer(folder), timeout_s=IN_VAIN_S)

    assert asyncio.run(survivors(case, play)) == []


@pytest.mark.parametrize("case", comparing(CLIENT, 15), ids=lambda case: case.name)
@pytest.mark.usefixtures("comes_back_at_once", "looks_closely")
def test_a_client_case_fails_without_its_last_expectation_and_with_any_one_changed(case: Case) -> None:
    async def play(mutant: Case) -> None:
        await run_client_case(mutant, AsyncClient(), timeout_s=IN_VAIN_S)

    assert asyncio.run(survivors(case, play)) == []


def sections() -> dict[str, str]:
    """The protocol's page, heading by heading, with lines joined."""
    page = (ROOT / "docs/protocol.md").read_text("utf-8")
    parts = re.split(r"^#+ (.+)$", page, flags=re.MULTILINE)[1:]
    return {heading: " ".join(text.split()) for heading, text in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize("side", [SERVER, CLIENT], ids=["server", "client"])
def test_every_case_quotes_the_rule_that_it_tests(side: list[Case]) -> None:
    page = sections()

    for case in side:
        heading, _, rule = case.why.partition(": ")
        assert rule in page[heading], f"{case.name!r} quotes {rule!r}, which is not in {heading!r}"


def test_names_are_told_apart() -> None:
    names = [case.name for case in (*SERVER, *CLIENT)]

    assert sorted(names) == sorted(set(names))


def test_the_cases_are_of_the_protocol_that_the_product_speaks() -> None:
    assert json.loads(CASES.read_text("utf-8"))["protocol"] == SUBPROTOCOL == frames.SUBPROTOCOL


@pytest.mark.parametrize("module", RUNNER, ids=lambda module: module.name)
def test_the_runner_needs_nothing_but_websockets(module: Path) -> None:
    known = {*sys.stdlib_module_names, *(sibling.stem for sibling in RUNNER), "websockets"}

    assert imported_by(module) <= known


def imported_by(module: Path) -> set[str]:
    """Return the top-level packages that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def said(value: Any) -> Iterator[str]:
    """Every key in a value."""
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from said(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from said(inner)


def test_every_step_and_sign_is_written_down() -> None:
    written = (ROOT / "docs/conformance.md").read_text("utf-8")
    used = {name for case in (*SERVER, *CLIENT) for step in case.steps for name in step}
    signs = {name for case in (*SERVER, *CLIENT) for name in said(case.steps) if name.startswith("$")}
    given = {name for case in (*SERVER, *CLIENT) for name in (*case.given, *case.needs)}

    assert [name for name in sorted(used | given) if f"`{name}`" not in written] == []
    assert [sign for sign in sorted(signs) if f'"{sign}"' not in written] == []


# Patterns.


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": {"$maybe": 1}}, {}),
        ({"a": {"$maybe": 1}}, {"a": 1}),
        ({"a": {"$absent": True}}, {"b": 1}),
        ({"$any": ["text", "null"]}, None),
        ({"$any": "time"}, AT),
        ({"$repeat": "ab", "$times": 2}, "abab"),
        ({"$equals": {}}, {}),
        ({"$begins": "org1:"}, "org1:a"),
        ({"$any": "integer", "$min": 1, "$max": 3}, 3),
        ({"$not": "a"}, "b"),
        ([{"$capture": "x"}, {"$is": "x"}], [7, 7]),
        ([{"a": 1, "$capture": "x"}, {"a": 1, "$is": "x"}], [{"a": 1, "b": 2}, {"a": 1, "b": 2}]),
        ({"$any": "number"}, 1.5),
    ],
)
def test_what_matches(pattern: Any, value: Any) -> None:
    match(pattern, value, {})


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": None}, {}),
        ({"a": {"$maybe": 1}}, {"a": 2}),
        ({"a": {"$absent": True}}, {"a": None}),
        ([1, 2], [1, 2, 3]),
        ([1], 1),
        ({"a": 1}, "a"),
        ({"$any": "integer"}, True),
        ({"$any": "time"}, "2026-01-02"),
        ({"$any": "time"}, "2026-01-02T03:04:05.678Z"),
        ({"$equals": {"a": 1}}, {"a": 1.0}),
        ({"a": 1, "$equals": {"a": 1}}, {"a": 1, "b": 2}),
        ({"$equals": {}}, {"a": 1}),
        ({"$begins": "org1:"}, "org2:a"),
        ({"$min": 1}, 0),
        ({"$max": 1}, 2),
        ({"$not": "a"}, "a"),
        ({"$repeat": "ab", "$times": 2}, "ab"),
        ({"$is": "never captured"}, 1),
        ([{"$capture": "x"}, {"$is": "x"}], [7, 8]),
        ([{"$capture": "x"}, {"$is": "x"}], [{"a": 1}, {"a": 1, "b": 2}]),
        ([{"$capture": "x"}, {"$is": "x"}], [1, 1.0]),
    ],
)
def test_what_does_not_match(pattern: Any, value: Any) -> None:
    captures: Fields = {}

    with pytest.raises(Mismatch):
        match(pattern, value, captures)

    assert captures == {}


def test_a_sign_that_nobody_knows_is_a_mistake_of_the_case() -> None:
    with pytest.raises(ValueError, match=r"\$about"):
        match({"$about": 1}, 1, {})


def test_what_is_sent_is_written_out() -> None:
    value = {"id": {"$is": "s"}, "content": {"$repeat": "x", "$times": 3}, "items": {"$items": {"from": 4, "to": 5}}}

    sent = fill(value, {"s": 9})

    assert (sent["id"], sent["content"]) == (9, "xxx")
    assert [(item["sequence"], item["content"]) for item in sent["items"]] == [(4, "4"), (5, "5")]


# The client's rule, as the runner judges it.

BEGUN: Final = {"type": "subscribed", "id": 1, "agent": "a", "epoch": "e1", "after": 1, "head": 2}


def messages(prev: int, last: int, *sequences: int, **fields: Any) -> Fields:
    items = [{"sequence": sequence, "created_at": AT, **fields} for sequence in sequences]
    return {"type": "messages", "agent": "a", "prev": prev, "last": last, "items": items}


@pytest.mark.parametrize(
    "wrong",
    [
        [messages(0, 2, 2)],
        [messages(1, 3, 2)],
        [messages(1, 2, 3)],
        [messages(1, 2, 2), messages(1, 2, 2)],
        [messages(1, 1)],
        [messages(1, 2, 2, position=7)],
        [messages(1, 2, 2) | {"agent": "b"}],
        [{"type": "live", "agent": "a", "sequence": 1}],
        [messages(1, 2, 2), {"type": "live", "agent": "a", "sequence": 3}],
        [messages(1, 2, 2), *[{"type": "live", "agent": "a", "sequence": 2}] * 2],
        [messages(1, 2, 2, created_at="2026-01-02T03:04:05Z")],
        [{"type": "status", "agent": "a", "status": "running", "sequence": 2, "at": AT}],
        [{"type": "status", "agent": "a", "status": "running", "sequence": 1, "at": "2026-01-02T03:04:05.006Z"}],
        [{"type": "gap", "agent": "a", "prev": 2, "last": 3}],
        [{"type": "goodbye", "code": 4000}, messages(1, 2, 2)],
    ],
)
def test_a_stream_that_breaks_the_rule_is_found(wrong: list[Fields]) -> None:
    lanes = Lanes()
    lanes.take(BEGUN)

    with pytest.raises(Mismatch):
        for frame in wrong:
            lanes.take(frame)


def test_nothing_may_come_after_unsubscribe() -> None:
    lanes = Lanes()
    lanes.take(BEGUN)
    lanes.asked({"type": "unsubscribe", "id": 2, "agent": "a"})
    lanes.take(messages(1, 2, 2))
    lanes.take({"type": "ok", "id": 2})

    with pytest.raises(Mismatch):
        lanes.take(messages(2, 3, 3))
