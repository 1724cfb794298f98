"""Whole numbers that JavaScript would make others of: text on the wire, through every door, and nowhere else."""

import asyncio
import http.client
import json
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commitcast.actors import AgentRuntime
from commitcast.gateway.protocol.frames import MAX_NUMBER
from commitcast.gateway.protocol.numbers import within_reach
from commitcast.gateway.server.http import asgi
from hostile import opened
from hosting import hosted

NANOSECONDS: Final = 1764377000123456789
AS_TEXT: Final = "1764377000123456789"

text = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\0123456789'), max_size=30)
integers = st.integers() | st.integers(MAX_NUMBER - 5, MAX_NUMBER + 5) | st.integers(-MAX_NUMBER - 5, -MAX_NUMBER + 5)
values = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)


def expected(value: Any) -> Any:
    """Return a value as it is to be read in a browser."""
    if isinstance(value, dict):
        return {name: expected(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [expected(inner) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_NUMBER:
        return str(value)
    return value


class TestDocuments:
    @given(value=values, ascii=st.booleans(), spaces=st.booleans())
    def test_every_such_number_and_nothing_else_is_text(self, value: Any, ascii: bool, spaces: bool) -> None:
        document = json.dumps(value, ensure_ascii=ascii, separators=None if spaces else (",", ":"))

        safe = within_reach(document)

        assert json.loads(safe) == expected(value)
        assert safe == document or expected(value) != value

    @pytest.mark.parametrize(
        ("document", "safe"),
        [
            ("9007199254740991", "9007199254740991"),
            ("9007199254740992", '"9007199254740992"'),
            ("-9007199254740991", "-9007199254740991"),
            ("-9007199254740992", '"-9007199254740992"'),
            ("9" * 10_000, f'"{"9" * 10_000}"'),
            ("12345678901234567890.5", "12345678901234567890.5"),
            ("0.30000000000000004", "0.30000000000000004"),
            ("12345678901234567890e5", "12345678901234567890e5"),
            ("1E+10000000000000000000", "1E+10000000000000000000"),
            ('"12345678901234567890"', '"12345678901234567890"'),
            ('"\\"12345678901234567890"', '"\\"12345678901234567890"'),
            ('{"12345678901234567890":1}', '{"12345678901234567890":1}'),
            (
                '["a",12345678901234567890,"b\\\\",12345678901234567890]',
                '["a","12345678901234567890","b\\\\","12345678901234567890"]',
            ),
        ],
    )
    def test_at_the_edge_of_what_a_double_holds(self, document: str, safe: str) -> None:
        assert within_reach(document) == safe


class TestEveryDoor:
    METADATA: Final = {"at_ns": NANOSECONDS, "near": [MAX_NUMBER, 0.5]}
    SHOWN: Final = {"at_ns": AS_TEXT, "near": [MAX_NUMBER, 0.5]}

    def spoken(self, runtime: AgentRuntime) -> None:
        agent = runtime.launch(id="a", configuration=dict(self.METADATA))
        agent.start()
        agent.emit("said", metadata=self.METADATA).get(10)
        agent.complete({"took": [NANOSECONDS]}).get(10)

    def test_a_subscriber_to_one_agent_and_one_to_all(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as client:
                one = await client.ask("subscribe", agent="a")
                assert one["record"]["configuration"] == self.SHOWN
                assert one["record"]["result"] == {"took": [AS_TEXT]}
                (item,) = (await client.until("messages", agent="a"))["items"]
                assert item["metadata"] == self.SHOWN
                assert (await client.until("status", agent="a", status="completed"))["result"] == {"took": [AS_TEXT]}
                await client.ask("subscribe", agent="*")
                assert (await client.until("agent"))["record"]["configuration"] == self.SHOWN
                (item,) = (await client.until("messages", agent="*"))["items"]
                assert item["metadata"] == self.SHOWN
                assert (await client.until("status", agent="a", status="completed"))["result"] == {"took": [AS_TEXT]}

        with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
            self.spoken(runtime)
            asyncio.run(scenario(runtime))

    def test_reads_and_event_streams(self, tmp_path: Path) -> None:
        def get(path: str) -> bytes:
            connection = http.client.HTTPConnection(address, timeout=10)
            try:
                connection.request("GET", path)
                return connection.getresponse().read()
            finally:
                connection.close()

        with (
            AgentRuntime(tmp_path / "a.db", listen="asgi") as runtime,
            hosted(asgi.app(runtime.gateway)) as address,
        ):
            self.spoken(runtime)

            for record in (json.loads(get("/v1/agents/a")), json.loads(get("/v1/agents"))["agents"][0]):
                assert (record["configuration"], record["result"]) == (self.SHOWN, {"took": [AS_TEXT]})
            assert json.loads(get("/v1/agents/a/messages"))["items"][0]["metadata"] == self.SHOWN
            events = get("/v1/agents/a/events")
            assert events.count(f'"{AS_TEXT}"'.encode()) == 4  # the record's two, the item's, the status'
            assert str(NANOSECONDS).encode() not in events.replace(f'"{AS_TEXT}"'.encode(), b"")

    def test_what_is_stored_and_what_the_host_reads_stays_a_number(self, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "a.db") as runtime:
            self.spoken(runtime)

            (message,) = runtime.agent("a").messages()
            record = runtime.agent("a").record()
            assert message.metadata == self.METADATA
            assert (record.configuration, record.result) == (self.METADATA, {"took": [NANOSECONDS]})
