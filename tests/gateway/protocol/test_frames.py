"""The wire protocol: what goes out comes in again, and whatever else comes in is refused and breaks nothing."""

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.gateway.hub.encoding import agent_view, message_item, status_frame
from commitcast.gateway.hub.redaction import Redactor
from commitcast.gateway.protocol import decoding, frames
from commitcast.gateway.protocol.errors import ErrorCode, FrameError
from commitcast.gateway.protocol.frames import ClientFrame, ServerFrame
from commitcast.persistence.records import AgentRecord, AgentStatus, MessageRecord, StatusChange
from examples import examples
from subscribers import raw_bytes

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(0, frames.MAX_NUMBER)
ids = st.none() | text | st.integers(-frames.MAX_NUMBER, frames.MAX_NUMBER)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-frames.MAX_NUMBER, frames.MAX_NUMBER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
optional = st.none() | text
errors = st.none() | st.builds(frames.ErrorView, name=optional, message=optional)
items = st.builds(
    frames.Item,
    sequence=numbers,
    type=text,
    role=optional,
    content=text,
    content_type=text,
    metadata=st.none() | st.dictionaries(text, values, max_size=3),
    created_at=text,
    raw=optional | st.just({"base64": "/w=="}),
    agent=optional,
    position=st.none() | numbers,
)
agent_views = st.builds(
    frames.AgentView,
    id=text,
    epoch=text,
    type=text,
    status=text,
    head=numbers,
    prompt=text,
    created_at=text,
    started_at=optional,
    completed_at=optional,
    error=errors,
    result=values,
    configuration=st.dictionaries(text, values, max_size=3),
)
after = numbers | st.just("tail")

keys = st.none() | st.text(min_size=1, max_size=128)
CLIENT: dict[type[Any], st.SearchStrategy[Any]] = {
    frames.Hello: st.builds(frames.Hello, id=ids, token=optional, client=optional),
    frames.Subscribe: st.builds(
        frames.Subscribe,
        id=ids,
        agent=text,
        after=after,
        epoch=optional,
        raw=st.booleans(),
        window=st.none() | st.integers(1, frames.MAX_NUMBER),
        slow=st.sampled_from(["catch_up", "skip", "close"]),
    ),
    frames.Unsubscribe: st.builds(frames.Unsubscribe, id=ids, agent=text),
    frames.Ack: st.builds(frames.Ack, id=ids, agent=st.dictionaries(text, numbers, max_size=3)),
    frames.Ping: st.builds(frames.Ping, id=ids),
    frames.Launch: st.builds(frames.Launch, id=ids, template=text, prompt=text, key=keys),
    frames.Send: st.builds(frames.Send, id=ids, agent=text, content=text, key=keys),
    frames.Terminate: st.builds(frames.Terminate, id=ids, agent=text, reason=optional, key=keys),
}
positions = st.none() | numbers
SERVER: dict[type[Any], st.SearchStrategy[Any]] = {
    frames.Welcome: st.builds(
        frames.Welcome,
        protocol=text,
        server=text,
        session=text,
        heartbeat_s=st.floats(0, 1e6),
        limits=st.dictionaries(text, numbers, max_size=3),
        needs_hello=st.booleans(),
    ),
    frames.Subscribed: st.builds(
        frames.Subscribed,
        id=ids,
        agent=text,
        epoch=text,
        after=numbers,
        head=numbers,
        first=numbers,
        status=optional,
        record=st.none() | agent_views,
    ),
    frames.Messages: st.builds(
        frames.Messages, agent=text, prev=numbers, last=numbers, items=st.lists(items, max_size=3)
    ),
    frames.Gap: st.builds(frames.Gap, agent=text, prev=numbers, last=numbers, status=optional),
    frames.Live: st.builds(frames.Live, agent=text, sequence=numbers),
    frames.Status: st.builds(
        frames.Status,
        agent=text,
        status=text,
        previous=text,
        sequence=numbers,
        at=text,
        error=errors,
        result=values,
        reason=optional,
        prev=positions,
        last=positions,
    ),
    frames.Agent: st.builds(
        frames.Agent,
        agent=text,
        event=st.sampled_from(["created", "updated", "deleted"]),
        record=st.none() | agent_views,
        prev=numbers,
        last=numbers,
    ),
    frames.Ok: st.builds(frames.Ok, id=ids, agent=optional, sequence=positions, status=optional, expires_at=optional),
    frames.Error: st.builds(
        frames.Error,
        id=ids,
        agent=optional,
        code=text,
        message=text,
        retry=st.booleans(),
        first=positions,
        head=positions,
    ),
    frames.Heartbeat: st.builds(frames.Heartbeat, heads=st.dictionaries(text, numbers, max_size=3)),
    frames.Goodbye: st.builds(frames.Goodbye, code=numbers, reason=text, reconnect_ms=positions),
}


def record(**facts: Any) -> AgentRecord:
    known: dict[str, Any] = {
        "id": "a",
        "epoch": "e",
        "position": 1,
        "type": "agent",
        "status": AgentStatus.RUNNING,
        "head": 0,
        "prompt": "",
        "created_at": "now",
    }
    return AgentRecord(**{**known, **facts})


class TestRoundTrip:
    def test_every_frame_type_is_covered_here(self) -> None:
        assert set(CLIENT) == set(get_args(ClientFrame))
        assert set(SERVER) == set(get_args(ServerFrame))

    @given(frame=st.one_of(*CLIENT.values()))
    def test_a_client_frame_comes_back_equal(self, frame: ClientFrame) -> None:
        assert decoding.decode_client(frames.encode(frame).decode()) == frame

    @given(frame=st.one_of(*SERVER.values()), as_text=st.booleans())
    def test_a_server_frame_comes_back_equal(self, frame: ServerFrame, as_text: bool) -> None:
        data = frames.encode(frame)

        assert decoding.decode_server(data.decode() if as_text else data) == frame

    @given(raw=st.binary(max_size=50) | text.map(str.encode))
    def test_raw_comes_back_byte_for_byte_as_text_or_base64(self, raw: bytes) -> None:
        message = MessageRecord("a", 1, 2, "assistant", None, "text", "text", "now", raw=raw)
        frame = frames.Messages(agent="a", prev=0, last=1, items=[message_item(message, raw=True, with_agent=False)])

        decoded = decoding.decode_server(frames.encode(frame))

        assert isinstance(decoded, frames.Messages)
        assert raw_bytes(decoded.items[0].raw) == raw

    def test_raw_is_left_out_unless_it_was_asked_for(self) -> None:
        message = MessageRecord("a", 1, 2, "assistant", None, "text", "text", "now", raw=b"line")

        assert message_item(message, raw=False, with_agent=False).raw is None
        assert raw_bytes(None) is None

    @given(metadata=st.dictionaries(text, values, max_size=4))
    def test_metadata_comes_back_equal(self, metadata: dict[str, Any]) -> None:
        stored = msgspec.json.encode(metadata).decode()
        message = MessageRecord("a", 1, 2, "assistant", None, "text", "text", "now", metadata_json=stored)

        item = json.loads(frames.encode(message_item(message, raw=False, with_agent=True)))

        assert item["metadata"] == metadata
        assert (item["agent"], item["position"]) == ("a", 2)

    def test_a_status_tells_error_result_and_reason(self) -> None:
        change = StatusChange(
            agent="a",
            position=9,
            previous=AgentStatus.RUNNING,
            status=AgentStatus.FAILED,
            sequence=4,
            at="now",
            reason="why",
            error_name="ValueError",
            error_message="no",
            result_json='{"partial":[1,2]}',
        )

        frame = decoding.decode_server(frames.encode(status_frame(change, prev=8, last=9)))

        assert isinstance(frame, frames.Status)
        assert (frame.status, frame.previous, frame.sequence, frame.reason) == ("failed", "running", 4, "why")
        assert (frame.error, frame.result) == (frames.ErrorView(name="ValueError", message="no"), {"partial": [1, 2]})
        assert (frame.prev, frame.last) == (8, 9)


class TestWhatIsIgnored:
    @given(frame=st.one_of(*CLIENT.values()), unknown=values)
    def test_a_field_that_the_server_does_not_know(self, frame: ClientFrame, unknown: Any) -> None:
        fields = {**json.loads(frames.encode(frame)), "of a later version": unknown}

        assert decoding.decode_client(json.dumps(fields)) == frame

    @given(frame=st.one_of(*SERVER.values()), unknown=values)
    def test_a_field_that_the_client_does_not_know(self, frame: ServerFrame, unknown: Any) -> None:
        fields = {**json.loads(frames.encode(frame)), "of a later version": unknown}

        assert decoding.decode_server(json.dumps(fields)) == frame

    @given(fields=st.dictionaries(text, values, max_size=3))
    def test_a_frame_type_that_the_client_does_not_know(self, fields: dict[str, Any]) -> None:
        assert decoding.decode_server(json.dumps({**fields, "type": "of a later version"})) is None


class TestWhatIsRefused:
    @pytest.mark.parametrize("id", [7, "seven", -1, None])
    def test_a_type_that_the_server_does_not_know_with_the_id_of_the_frame(self, id: Any) -> None:
        with pytest.raises(FrameError, match="nonsense") as caught:
            decoding.decode_client(json.dumps({"type": "nonsense", "id": id}))

        assert caught.value.id == id
        assert caught.value.error_code is ErrorCode.BAD_REQUEST

    @pytest.mark.parametrize("id", [True, 1.5, 2**53, -(2**53), 10**40, [1], {"a": 1}])
    def test_an_id_that_cannot_be_echoed_is_not_echoed(self, id: Any) -> None:
        with pytest.raises(FrameError) as caught:
            decoding.decode_client(json.dumps({"type": "ping", "id": id}))

        assert caught.value.id is None

    @pytest.mark.parametrize(
        "fields",
        [
            {"type": "subscribe"},
            {"type": "subscribe", "agent": 1},
            {"type": "subscribe", "agent": "a", "after": -1},
            {"type": "subscribe", "agent": "a", "after": 2**53},
            {"type": "subscribe", "agent": "a", "after": 1e300},
            {"type": "subscribe", "agent": "a", "after": "head"},
            {"type": "subscribe", "agent": "a", "window": 0},
            {"type": "subscribe", "agent": "a", "window": 2**53},
            {"type": "ack", "agent": {"a": 2**53}},
            {"type": "ack", "agent": {"a": -1}},
            {"type": "unsubscribe"},
            {"id": 1},
        ],
        ids=json.dumps,
    )
    def test_a_field_that_is_missing_or_wrong(self, fields: dict[str, Any]) -> None:
        with pytest.raises(FrameError) as caught:
            decoding.decode_client(json.dumps({"id": 5, **fields}))

        assert caught.value.id == fields.get("id", 5)
        assert caught.value.error_code is ErrorCode.BAD_REQUEST

    def test_the_largest_number_is_taken(self) -> None:
        frame = decoding.decode_client('{"type": "subscribe", "agent": "a", "after": 9007199254740991}')

        assert isinstance(frame, frames.Subscribe)
        assert frame.after == 2**53 - 1

    def test_a_binary_frame(self) -> None:
        with pytest.raises(FrameError, match="text"):
            decoding.decode_client(b'{"type": "ping"}')

    @pytest.mark.parametrize("letter", ["x", "ü", "\U0001f916"])
    def test_a_control_frame_of_more_than_64_kib_counted_in_bytes(self, letter: str) -> None:
        def ping(size: int) -> str:
            frame = json.dumps({"type": "ping", "id": 3, "junk": ""}, ensure_ascii=False)
            room = size - len(frame)
            letters = room // len(letter.encode())
            return frame[:-2] + letter * letters + " " * (room - letters * len(letter.encode())) + frame[-2:]

        with pytest.raises(FrameError) as caught:
            decoding.decode_client(ping(64 * 1024 + 1))

        assert (caught.value.error_code, caught.value.id) == (ErrorCode.TOO_LARGE, 3)
        assert decoding.decode_client(ping(64 * 1024)) == frames.Ping(id=3)

    @pytest.mark.parametrize(
        ("type", "field", "others"), [("send", "content", {"agent": "a"}), ("launch", "prompt", {"template": "t"})]
    )
    def test_content_of_more_than_a_mebibyte(self, type: str, field: str, others: dict[str, str]) -> None:
        largest = "x" * frames.MAX_CONTENT_BYTES

        with pytest.raises(FrameError) as caught:
            decoding.decode_client(json.dumps({"type": type, "id": 3, field: largest + "x", **others}))

        assert (caught.value.error_code, caught.value.id) == (ErrorCode.TOO_LARGE, 3)
        decoding.decode_client(json.dumps({"type": type, "id": 3, field: largest, **others}))

    def test_what_it_says_does_not_grow_with_the_frame(self) -> None:
        with pytest.raises(FrameError) as caught:
            decoding.decode_client(json.dumps({"type": "x" * 1_000_000}))

        assert len(str(caught.value)) < 1_000


HOSTILE = [
    "",
    "null",
    "3",
    "[" * 100_000,
    '{"type":' * 5_000,
    '{"type":"ping","x":' + "[" * 100_000,
    '{"type":"nonsense","x":' + "[" * 100_000,
    '{"type":"live","agent":1,"x":' + "[" * 100_000,
    '{"type":"ping","id":' + "9" * 5_000 + "}",
    '{"type":"nonsense","id":' + "9" * 5_000 + "}",
    '{"type":"nonsense","id":1e999}',
    '{"type":"nonsense"',
    '{"type":"nonsense","x":[[[',
    '{"type":"ping","id":"\\ud800"}',
    '{"type":"nonsense","x":"\\ud800"}',
    '{"type":"subscribe","agent":"\\udc00\\ud800"}',
    '{"type":"ping","id":NaN}',
    "\ud800",
    '{"type":"\ud800"}',
    '{"type":{"type":"ping"}}',
    '{"type":"ping"}{"type":"ping"}',
    '\ufeff{"type":"ping"}',
    "\x00",
]
fragments = st.sampled_from(['{"type":', '"ping"', '"subscribe"', '"agent":', '"id":', "[", "]", "{", "}", ",", ":"])
whatever = (
    st.text(max_size=40)
    | st.binary(max_size=40)
    | st.lists(fragments | st.text(max_size=5), max_size=12).map("".join)
    | values.map(json.dumps)
    | st.dictionaries(st.sampled_from(["type", "id", "agent", "after", "raw", "window"]), values).map(json.dumps)
)


class TestWhateverComes:
    @pytest.mark.parametrize("data", HOSTILE, ids=lambda data: ascii(data[:40]))
    def test_something_hostile_is_refused_and_can_be_answered(self, data: str) -> None:
        with pytest.raises(FrameError) as caught:
            decoding.decode_client(data)

        assert frames.encode(frames.Error(id=caught.value.id, code="bad_request", message="no", retry=False))

    @given(data=whatever)
    @settings(max_examples=examples(100, 300))
    @pytest.mark.sampled(1 / 2)
    def test_a_client_frame_is_decoded_or_refused_and_nothing_else(self, data: str | bytes) -> None:
        try:
            frame = decoding.decode_client(data)
        except FrameError as error:
            assert frames.encode(frames.Ok(id=error.id))
        else:
            assert isinstance(frame, get_args(ClientFrame))
            assert frames.encode(frames.Ok(id=frame.id))

    @pytest.mark.parametrize("data", HOSTILE, ids=lambda data: ascii(data[:40]))
    def test_something_hostile_from_a_server_is_refused_or_ignored(self, data: str) -> None:
        self._decode(data)

    @given(data=whatever)
    @settings(max_examples=examples(100, 300))
    @pytest.mark.sampled(1 / 2)
    def test_a_server_frame_is_decoded_ignored_or_refused_and_nothing_else(self, data: str | bytes) -> None:
        self._decode(data)

    @staticmethod
    def _decode(data: str | bytes) -> None:
        try:
            frame = decoding.decode_server(data)
        except FrameError:
            return
        assert frame is None or isinstance(frame, get_args(ServerFrame))


class TestAgentView:
    def test_secrets_are_left_out_however_deep(self) -> None:
        configuration = {
            "model": "m",
            "API_KEY": "hidden",
            "env": {"PATH": "hidden"},
            "servers": [{"url": "u", "Authorization": "hidden", "inner": {"db_password": "hidden", "port": 1}}],
            "passphrase": "hidden",
        }

        view = agent_view(record(configuration_json=json.dumps(configuration)), Redactor())

        assert view.configuration == {"model": "m", "servers": [{"url": "u", "inner": {"port": 1}}]}
        assert b"hidden" not in frames.encode(view)

    def test_the_process_and_the_idempotency_key_are_left_out(self) -> None:
        view = agent_view(record(pid=4711, pid_started="boot", idempotency_key="hidden"), Redactor())

        encoded = frames.encode(view)
        assert b"4711" not in encoded and b"boot" not in encoded and b"hidden" not in encoded

    def test_a_configuration_that_is_nested_as_deeply_as_a_store_takes_is_cut(self) -> None:
        depth = 900
        view = agent_view(record(configuration_json='{"a":' * depth + "1" + "}" * depth), Redactor())

        assert frames.encode(view).count(b'{"a":') == 101

    def test_error_and_result_are_told(self) -> None:
        view = agent_view(record(error_name="ValueError", error_message="no", result_json="[1]"), Redactor())

        assert json.loads(frames.encode(view))["error"] == {"name": "ValueError", "message": "no"}
        assert json.loads(frames.encode(view))["result"] == [1]
