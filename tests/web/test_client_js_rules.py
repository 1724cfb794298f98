"""client.js against a server that says whatever the test wants: what is lost, repeated, refused, late or silent."""

from collections.abc import Callable
from typing import Any

import pytest

from scripted_server import Fields, ScriptedServer, answering, end, messages

pytestmark = pytest.mark.sampled(8, of_file=True)

Start = Callable[[str, str | None], Any]

COLLECT = """
    const seen = [], states = [];
    const client = connect({ onState: (state) => states.push(state) });
    const subscription = client.subscribe("a1");
    try {
      for await (const { sequence } of subscription) seen.push(sequence);
    } catch (error) {
      seen.push(error.code);
    }
    say({ seen, resumes: subscription.resumes, waited: states.filter((s) => s.name === "waiting").map((s) => s.ms) });
"""


def test_frames_that_are_lost_or_repeated_make_it_subscribe_again_after_its_cursor(node: Start) -> None:
    turns = [
        [messages(0, 2), messages(4, 6)],  # 3 and 4 are lost
        [messages(2, 3), messages(2, 3)],  # 3 is repeated
        [{"type": "of a later version"}, messages(3, 6), end(6)],
    ]

    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            server.accept(frame)
            server.say(*turns.pop(0))

    with answering(answer) as server:
        said = node(COLLECT, server.url).next()

    assert said["seen"] == [1, 2, 3, 4, 5, 6]
    assert [frame["after"] for frame in server.of("subscribe")] == [0, 2, 3]
    assert server.connections == 1


def test_a_status_that_comes_before_its_message_is_not_believed(node: Start) -> None:
    turns = [[messages(0, 1), end(2)], [messages(1, 2), end(2)]]

    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            server.accept(frame, head=1)
            server.say(*turns.pop(0))

    with answering(answer) as server:
        assert node(COLLECT, server.url).next()["seen"] == [1, 2]


def test_what_was_sent_before_the_reply_to_the_newest_subscribe_is_ignored(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            server.say(messages(0, 3))
            server.accept(frame | {"id": frame["id"] + 1000})
            server.say(messages(0, 3))
            server.accept(frame)
            server.say(messages(0, 6), end(6))

    with answering(answer) as server:
        assert node(COLLECT, server.url).next()["seen"] == [1, 2, 3, 4, 5, 6]


def test_a_gap_moves_the_cursor_and_is_told(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            assert frame["slow"] == "skip"
            server.accept(frame)
            gap = {"type": "gap", "agent": "a1", "prev": 1, "last": 5, "status": "running"}
            server.say(messages(0, 1), gap, messages(5, 6), end(6))

    script = """
        const onEvent = ({ type, prev, last }) => type === "gap" && say([prev, last]);
        for await (const { sequence } of connect().subscribe("a1", { slow: "skip", onEvent })) say(sequence);
    """
    with answering(answer) as server:
        assert list(node(script, server.url)) == [1, [1, 5], 6]


def test_a_gap_over_the_end_ends_it(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            server.accept(frame)
            server.say(messages(0, 1), {"type": "gap", "agent": "a1", "prev": 1, "last": 6, "status": "completed"})

    with answering(answer) as server:
        assert node(COLLECT, server.url).next()["seen"] == [1]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("code", ["not_found", "gone", "ahead", "stale_epoch", "forbidden", "bad_request", "limit"])
def test_final_errors_are_thrown(node: Start, code: str) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            server.say(
                {"type": "error", "id": frame["id"], "agent": "a1", "code": code, "message": "no", "retry": False}
            )

    with answering(answer) as server:
        assert node(COLLECT, server.url).next()["seen"] == [code]


def test_an_agent_that_is_deleted_meanwhile_is_gone(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            server.accept(frame)
            server.say(messages(0, 1), {"type": "error", "agent": "a1", "code": "gone", "message": "x", "retry": False})

    with answering(answer) as server:
        assert node(COLLECT, server.url).next()["seen"] == [1, "gone"]


def test_errors_that_say_so_are_tried_again(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] != "subscribe":
            return
        if len(server.of("subscribe")) < 3:
            fields = {"agent": "a1", "code": "unavailable", "message": "later", "retry": True}
            server.say({"type": "error", "id": frame["id"]} | fields)
        else:
            server.accept(frame)
            server.say(messages(0, 6), end(6))

    with answering(answer) as server:
        assert node(COLLECT, server.url).next()["seen"] == [1, 2, 3, 4, 5, 6]


def test_a_refused_append_is_told_and_ends_nothing(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            server.accept(frame, head=1)
            refused = {"type": "error", "agent": "a1", "code": "too_large", "message": "x", "retry": False}
            server.say(refused, messages(0, 1), end(1))

    script = """
        const onEvent = ({ type, code }) => type === "error" && say(code);
        for await (const { sequence } of connect().subscribe("a1", { onEvent })) say(sequence);
    """
    with answering(answer) as server:
        assert list(node(script, server.url)) == ["too_large", 1]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("code", [4000, 4001, 4002, 4004, 4005, 1011])
def test_it_comes_back_after_a_goodbye_when_it_was_told_to(node: Start, code: int) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] != "subscribe":
            return
        server.accept(frame)
        if server.connections == 1:
            server.say(messages(0, 2), {"type": "goodbye", "code": code, "reason": "x", "reconnect_ms": 34})
            server.close(code)
        else:
            server.say(messages(frame["after"], 6), end(6))

    with answering(answer) as server:
        said = node(COLLECT, server.url).next()

    assert said["seen"] == [1, 2, 3, 4, 5, 6]
    assert said["waited"] == [34]
    assert server.connections == 2


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("code", "thrown"),
    [(4500, "bad_request"), (4501, "unauthenticated"), (4503, "forbidden"), (4504, "limit"), (4999, "4999")],
)
def test_close_codes_from_4500_are_for_good(node: Start, code: int, thrown: str) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        server.close(code, "never")

    with answering(answer) as server:
        assert node(COLLECT, server.url).next()["seen"] == [thrown]

    assert server.connections == 1


def test_waits_grow_with_each_failure_up_to_their_bound(node: Start) -> None:
    script = """
        const waits = [];
        const client = connect({ random: () => 1, onState: (state) => {
          if (state.name !== "waiting") return;
          waits.push(state.ms);
          globalThis.online();  // as a browser says when the network is back
          if (waits.length === 9) { say(waits); client.close(); }
        } });
        await heard();
    """
    listening = (
        "globalThis.addEventListener = (name, listener) => { if (name === 'online') globalThis.online = listener; };"
    )

    def answer(server: ScriptedServer, frame: Fields) -> None: ...

    with answering(answer) as server:
        pass  # nobody listens there any more
    waits = node(listening + script, server.url).next()

    assert waits == [500, 1000, 2000, 4000, 8000, 16000, 20000, 20000, 20000]


def test_silence_for_three_heartbeats_is_taken_for_a_loss(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            server.accept(frame)
            if server.connections == 2:
                server.say(messages(0, 6), end(6))

    with answering(answer, heartbeat_s=0.05) as server:
        said = node(COLLECT, server.url).next()

    assert (said["seen"], server.connections) == ([1, 2, 3, 4, 5, 6], 2)


def test_a_head_above_the_cursor_in_two_heartbeats_shows_a_lost_tail(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe" and frame["after"] == 0:
            server.accept(frame, head=2)
            beat = {"type": "heartbeat", "heads": {"a1": 4}}
            server.say(messages(0, 2), beat, messages(2, 3), beat, beat)
        elif frame["type"] == "subscribe":
            server.accept(frame, head=4)
            server.say(messages(3, 4), end(4))

    with answering(answer) as server:
        said = node(COLLECT, server.url).next()

    assert said["seen"] == [1, 2, 3, 4]
    assert [frame["after"] for frame in server.of("subscribe")] == [0, 3]


def test_a_window_that_is_shut_is_no_lost_tail(node: Start) -> None:
    beat = {"type": "heartbeat", "heads": {"a1": 6}}

    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            server.accept(frame)
            server.say(messages(0, 2), beat, beat, beat)
        elif frame["type"] == "ack":
            assert frame["agent"] == {"a1": 2}
            server.say(messages(2, 6), end(6))

    script = """
        for await (const { sequence } of connect().subscribe("a1", { window: 2 })) {
          say(sequence);
          if (sequence === 2) await heard();
        }
    """
    with answering(answer) as server:
        following = node(script, server.url)
        said = [following.next(), following.next()]
        following.tell()
        said += list(following)

    assert said == [1, 2, 3, 4, 5, 6]
    assert [frame["after"] for frame in server.of("subscribe")] == [0]


def test_an_application_that_is_behind_when_the_connection_is_lost_gets_what_had_come_and_then_the_rest(
    node: Start,
) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            server.accept(frame)
            server.say(messages(frame["after"], frame["after"] + 3))
            if server.connections == 1:
                server.close(1011)
            else:
                server.say(end(6))

    script = """
        let opened = 0;
        const client = connect({ onState: ({ name }) => name === "open" && ++opened === 2 && say("open again") });
        for await (const { sequence } of client.subscribe("a1")) {
          say(sequence);
          if (sequence === 1) await heard();
        }
    """
    with answering(answer) as server:
        following = node(script, server.url)
        said = [following.next(), following.next()]
        following.tell()
        said += list(following)

    assert said == [1, "open again", 2, 3, 4, 5, 6]
    assert [frame["after"] for frame in server.of("subscribe")] == [0, 3]


def ok(server: ScriptedServer, frame: Fields, **fields: Any) -> None:
    server.say({"type": "ok", "id": frame["id"]} | fields)


def refuse_token(server: ScriptedServer, frame: Fields) -> None:
    server.say({"type": "error", "id": frame["id"], "code": "unauthenticated", "message": "no", "retry": False})
    server.close(4501)


def test_a_token_goes_into_hello_first_and_never_into_the_url(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "hello":
            ok(server, frame)
        else:
            server.accept(frame, head=0, status="completed")
            server.say({"type": "live", "agent": "a1", "sequence": 0})

    with answering(answer, needs_hello=True) as server:
        list(node("for await (const m of connect({ token: async () => 's3cret' }).subscribe('a1'));", server.url))

    assert [frame["type"] for frame in server.heard[:2]] == ["hello", "subscribe"]
    assert server.heard[0]["token"] == "s3cret"
    assert server.paths == ["/v1/ws"]


@pytest.mark.parametrize(("tokens", "code"), [(["old", "new"], None), (["old", "older", "new"], "unauthenticated")])
def test_a_refused_token_is_asked_for_again_once(node: Start, tokens: list[str], code: str | None) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "hello" and frame["token"] != "new":
            refuse_token(server, frame)
        elif frame["type"] == "hello":
            ok(server, frame)
        elif frame["type"] == "subscribe":
            server.accept(frame, head=0, status="completed")
            server.say({"type": "live", "agent": "a1", "sequence": 0})

    script = (
        f"const tokens = {tokens}; for await (const m of connect({{ token: () => tokens.shift() }}).subscribe('a1'));"
    )
    with answering(answer) as server:
        said = list(node(script, server.url))

    assert [line["error"] for line in said] == ([] if code is None else [code])
    assert [frame["token"] for frame in server.of("hello")] == tokens[:2]


def test_a_token_that_is_not_looked_at_now_is_presented_again_later(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "hello" and server.connections == 1:
            server.say({"type": "error", "id": frame["id"], "code": "rate_limited", "message": "x", "retry": True})
        elif frame["type"] == "hello":
            ok(server, frame)
        else:
            server.accept(frame, head=0, status="completed")
            server.say({"type": "live", "agent": "a1", "sequence": 0})

    with answering(answer, needs_hello=True) as server:
        said = list(node("for await (const m of connect({ token: 's3cret' }).subscribe('a1'));", server.url))

    assert said == []
    assert [frame["token"] for frame in server.of("hello")] == ["s3cret", "s3cret"]


@pytest.mark.parametrize("how", ["close", "error"])
def test_an_expired_token_is_replaced_and_the_stream_goes_on(node: Start, how: str) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "hello":
            ok(server, frame)
        elif frame["type"] == "subscribe" and server.connections == 1:
            if how == "close":
                server.accept(frame)
                server.say(messages(0, 2))
                server.close(4001)
            else:
                fields = {"code": "token_expired", "message": "x", "retry": True}
                server.say({"type": "error", "id": frame["id"], "agent": "a1"} | fields)
        elif frame["type"] == "subscribe":
            server.accept(frame)
            server.say(messages(frame["after"], 6), end(6))

    script = COLLECT.replace("connect({", "connect({ token: () => tokens.shift(),")
    with answering(answer) as server:
        said = node("const tokens = ['first', 'second'];" + script, server.url).next()

    assert said["seen"] == [1, 2, 3, 4, 5, 6]
    assert said["waited"] == []
    assert [frame["token"] for frame in server.of("hello")] == ["first", "second"]


def test_refresh_presents_a_new_token_on_the_same_connection(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        ok(server, frame, expires_at="2030-01-01T00:00:00Z")

    script = """
        const tokens = ["first", "second"];
        const client = connect({ token: () => tokens.shift() });
        await client.launch("t", "p");
        say((await client.refresh()).expires_at);
    """
    with answering(answer) as server:
        assert node(script, server.url).next() == "2030-01-01T00:00:00Z"

    assert [frame["token"] for frame in server.of("hello")] == ["first", "second"]
    assert server.connections == 1


def test_without_a_token_a_server_that_demands_one_is_refused_at_once(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None: ...

    with answering(answer, needs_hello=True) as server:
        assert node(COLLECT, server.url).next()["seen"] == ["unauthenticated"]


def test_a_request_is_repeated_with_its_key_after_a_lost_connection(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if server.connections == 1:
            server.close(1011)
        else:
            ok(server, frame, agent="a1", sequence=7)

    script = """
        const client = connect();
        say(await Promise.all([
          client.launch("t", "p"), client.send("a1", "hi", { key: "mine" }), client.terminate("a1", "enough"),
        ]));
    """
    with answering(answer) as server:
        said = node(script, server.url).next()

    assert [reply["sequence"] for reply in said] == [7, 7, 7]
    (first, again) = server.of("launch")[0], server.of("launch")[-1]
    assert server.connections == 2
    assert first == again and len(first["key"]) == 32
    assert server.of("send")[-1]["key"] == "mine"
    assert server.of("terminate")[-1]["reason"] == "enough"


def test_requests_are_refused_tried_again_or_time_out(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        error = {"type": "error", "id": frame["id"], "message": "x"}
        if frame["type"] == "launch":
            server.say(error | {"code": "forbidden", "retry": False})
        elif frame["type"] == "terminate" and len(server.of("terminate")) == 1:
            server.say(error | {"code": "rate_limited", "retry": True})
        elif frame["type"] == "terminate":
            ok(server, frame, status="terminated")

    script = """
        const client = connect();
        await client.launch("t", "p").catch((error) => say(error.code));
        say((await client.terminate("a1")).status);
        await client.send("a1", "x", { key: "k", timeoutMs: 50 }).catch((error) => say([error.code, error.key]));
        client.close();
        await client.send("a1", "x").catch((error) => say(error.code));
    """
    with answering(answer) as server:
        said = list(node(script, server.url))

    assert said == ["forbidden", "terminated", ["timeout", "k"], "closed"]
    assert server.of("terminate")[0] == server.of("terminate")[1]


def test_closing_ends_what_waits(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            server.accept(frame)

    script = """
        const client = connect();
        const subscription = client.subscribe("a1", { onEvent: () => client.close() });
        for await (const message of subscription);
        say([client.state.name, subscription.ending]);
    """
    with answering(answer) as server:
        assert list(node(script, server.url)) == [["closed", None]]


def test_acknowledgements_are_few(node: Start) -> None:
    def answer(server: ScriptedServer, frame: Fields) -> None:
        if frame["type"] == "subscribe":
            server.accept(frame, head=1000)
            for number in range(1000):
                server.say(messages(number, number + 1))
        elif frame["type"] == "ack" and frame["agent"] == {"a1": 1000}:
            server.say(end(1000))

    with answering(answer) as server:
        said = node(COLLECT, server.url).next()

    assert said["seen"] == list(range(1, 1001))
    assert server.of("subscribe")[0]["window"] == 4096
    assert 1 <= len(server.of("ack")) <= 20
