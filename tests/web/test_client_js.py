"""client.js against the real server: every message exactly once, in order, whatever happens to the connection."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commitcast.actors import AgentRuntime

pytestmark = pytest.mark.sampled(6, of_file=True)

Start = Callable[[str, str | None], Any]
SECONDS = 10.0


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[AgentRuntime]:
    with AgentRuntime(tmp_path / "agents.db", listen="127.0.0.1:0") as runtime:
        yield runtime


def running(runtime: AgentRuntime, id: str) -> Any:
    agent = runtime.launch(id=id)
    agent.start()
    return agent


def emit(agent: Any, count: int) -> None:
    for number in range(count):
        agent.emit(str(number))


def test_messages_and_changes_of_status_come_in_their_order_and_the_iterator_ends(
    node: Start, runtime: AgentRuntime
) -> None:
    agent = runtime.launch(id="a1", prompt="hello")
    script = """
        const client = connect({ onState: (state) => say(state.name) });
        const follow = client.subscribe("a1", { onEvent: (event) => say([event.type, event.status ?? null]) });
        for await (const message of follow) say(message.content);
        say([follow.cursor, follow.status, follow.ending.sequence, follow.epoch.length > 0]);
    """

    following = node(script, runtime.url)
    said = [following.next() for _ in range(5)]
    agent.start()
    agent.emit("one")
    agent.complete()
    said += list(following)

    assert said[:5] == ["connecting", "open", ["subscribed", "initializing"], "hello", ["live", None]]
    assert said[5:] == [["status", "running"], "one", ["status", "completed"], [2, "completed", 2, True]]


def test_one_connection_carries_all_subscriptions_of_a_client(node: Start, runtime: AgentRuntime) -> None:
    agents = [running(runtime, f"a{number}") for number in range(5)]
    script = """
        let sockets = 0;
        class Counting extends WebSocket { constructor(...given) { super(...given); sockets++; } }
        const client = connect({ WebSocket: Counting });
        const follow = async (agent) => {
          const seen = [];
          for await (const { sequence } of client.subscribe(agent)) seen.push(sequence);
          return seen;
        };
        const all = client.subscribe("*", { onEvent: ({ type }) => type === "live" && say("live") });
        const first = all.next();
        const seen = await Promise.all([0, 1, 2, 3, 4].map((number) => follow(`a${number}`)));
        say([sockets, seen, (await first).value.position]);
    """

    following = node(script, runtime.url)
    following.next()
    for agent in agents:
        agent.emit("one")
        agent.emit("two")
        agent.complete()

    assert following.next()[:2] == [1, [[1, 2]] * 5]


def test_cut_again_and_again_it_gives_every_message_once(node: Start, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    script = """
        const client = connect();
        const subscription = client.subscribe("a1", { window: 20 });
        const seen = [];
        for await (const { sequence } of subscription) {
          seen.push(sequence);
          if (sequence % 37 === 0) client.cut(0);
        }
        say([seen, subscription.resumes]);
    """

    following = node(script, runtime.url)
    emit(agent, 400)
    agent.complete()
    seen, resumes = following.next()

    assert seen == list(range(1, 401))
    assert resumes == 10


def test_it_goes_on_after_a_restart_of_the_server_on_the_same_port(node: Start, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    script = """
        const client = connect();
        for await (const message of client.subscribe("a1")) say(message.content);
        say("ended");
    """

    with AgentRuntime(tmp_path / "a.db", listen=listen) as first:
        following = node(script, first.url)
        first.launch(id="a1").emit("before").get(SECONDS)
        assert following.next() == "before"
    with AgentRuntime(tmp_path / "a.db", listen=listen):
        said = list(following)

    assert said == ["ended"]  # an agent does not outlive its runtime


def test_a_slow_application_is_sent_no_more_than_its_window(node: Start, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    emit(agent, 5_000)
    agent.complete().get(SECONDS)
    script = """
        let arrived = 0, most = 0, consumed = 0;
        class Counting extends WebSocket {
          constructor(...given) {
            super(...given);
            this.addEventListener("message", ({ data }) => {
              arrived += JSON.parse(data).items?.length ?? 0;
              most = Math.max(most, arrived - consumed);
            });
          }
        }
        const client = connect({ WebSocket: Counting });
        const seen = [];
        for await (const { sequence } of client.subscribe("a1", { window: 500 })) {
          seen.push(sequence);
          if (sequence % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
          consumed++;
        }
        say([seen.length, seen.every((sequence, place) => sequence === place + 1), most]);
    """

    count, is_in_order, most = node(script, runtime.url).next()

    assert (count, is_in_order) == (5_000, True)
    assert 100 < most <= 500


def test_cursors_are_kept_as_the_application_consumes(node: Start, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    emit(agent, 5)
    agent.complete().get(SECONDS)
    script = """
        const kept = new Map();
        const cursors = { get: (agent) => kept.get(agent), set: (agent, place) => kept.set(agent, place) };
        const client = connect({ cursors });
        for await (const { sequence } of client.subscribe("a1")) if (sequence === 3) break;
        say(kept.get("a1").cursor);
        const after = [];
        for await (const { sequence } of client.subscribe("a1")) after.push(sequence);
        say([after, kept.get("a1").cursor]);
        kept.set("a1", { cursor: 1, epoch: "another" });
        for await (const message of client.subscribe("a1"));
    """

    said = list(node(script, runtime.url))

    assert said[:2] == [2, [[3, 4, 5], 5]]  # the third was being worked on when it left: it comes again
    assert said[2]["error"] == "stale_epoch"


@pytest.mark.parametrize(
    ("agent", "options", "code"),
    [
        ("nobody", "{}", "not_found"),
        ("a1", "{ after: 99 }", "ahead"),
        ("a1", "{ epoch: 'another' }", "stale_epoch"),
    ],
)
def test_what_is_refused_for_good_is_thrown_in_the_iterator(
    node: Start, runtime: AgentRuntime, agent: str, options: str, code: str
) -> None:
    running(runtime, "a1").emit("one").get(SECONDS)
    script = f"""
        try {{
          for await (const message of connect().subscribe("{agent}", {options}));
        }} catch (error) {{
          say([error instanceof CommitcastError, error.code]);
        }}
    """

    assert list(node(script, runtime.url)) == [[True, code]]


def test_what_is_stored_after_the_end_is_given_out_too_if_it_is_there(node: Start, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    agent.emit("one")
    agent.complete()
    agent.emit("late").get(SECONDS)
    script = "for await (const message of connect().subscribe('a1')) say(message.content); say('ended');"

    assert list(node(script, runtime.url)) == ["one", "late", "ended"]
    resumed = script.replace("'a1'", "'a1', { after: 2 }")
    assert list(node(resumed, runtime.url)) == ["ended"]


def test_raw_lines_come_if_they_are_asked_for(node: Start, runtime: AgentRuntime) -> None:
    agent = running(runtime, "a1")
    agent.emit("one", raw=b'{"text": "one"}')
    agent.complete().get(SECONDS)
    script = "for await (const m of connect().subscribe('a1', { raw: RAW })) say(m.raw ?? null);"

    assert list(node(script.replace("RAW", "true"), runtime.url)) == ['{"text": "one"}']
    assert list(node(script.replace("RAW", "false"), runtime.url)) == [None]


def test_a_token_is_presented_to_the_real_server(node: Start, tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "agents.db", listen="127.0.0.1:0", token="s3cret") as runtime:
        agent = running(runtime, "a1")
        agent.emit("one")
        agent.complete().get(SECONDS)
        script = """
            const tokens = ["wrong", "s3cret", "s3cret"];
            const client = connect({ token: () => tokens.shift() });
            for await (const message of client.subscribe("a1")) say(message.content);
            say((await client.refresh()).type);
            say(tokens.length);
            for await (const message of connect({ token: "wrong" }).subscribe("a1"));
        """

        said = list(node(script, runtime.url))

    assert said[:3] == ["one", "ok", 0]
    assert said[3]["error"] == "unauthenticated"
