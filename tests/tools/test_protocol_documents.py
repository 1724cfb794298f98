"""The protocol's documents say what the types and their docstrings say, and accept what the decoder accepts."""

import json
import re
import runpy
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import protocol_documents as documents
import protocol_schema as schema
from commitcast.gateway.protocol import decoding, frames
from commitcast.gateway.protocol.errors import CloseCode, ErrorCode, FrameError
from commitcast.gateway.protocol.frames import ClientFrame, ServerFrame

DOCS = documents.ROOT / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text("utf-8")
STRATEGIES = runpy.run_path(str(documents.ROOT / "tests/gateway/protocol/test_frames.py"))
CLIENT: dict[type[Any], st.SearchStrategy[Any]] = STRATEGIES["CLIENT"]
SERVER: dict[type[Any], st.SearchStrategy[Any]] = STRATEGIES["SERVER"]
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
fractions = st.floats(-1e9, 1e9).filter(lambda number: not number.is_integer())
"""JSON Schema takes 1.0 for an integer, and the decoder does not."""
numbers = st.integers(-frames.MAX_NUMBER, frames.MAX_NUMBER) | fractions
values: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | numbers | text | st.just([]) | st.just({}) | st.just({"a": 1}) | st.just([{}])
)


@cache
def validator(union: str) -> Draft202012Validator:
    return Draft202012Validator({**schema.frames_schema(), "oneOf": [{"$ref": f"#/$defs/{union}"}]})


def is_accepted(union: str, fields: Any) -> bool:
    """Whether the decoder takes it for a frame of this side."""
    try:
        if union == "ClientFrame":
            decoding.decode_client(json.dumps(fields))
            return True
        return decoding.decode_server(json.dumps(fields)) is not None
    except FrameError:
        return False


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document where something stands: what holds it, and its key there."""
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def references(document: Any) -> Iterator[str]:
    return (held[key] for held, key in places(document) if key == "$ref")


def resolve(document: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


class TestFramesSchema:
    def test_it_is_json_schema_and_refers_to_what_is_there(self) -> None:
        document = schema.frames_schema()

        Draft202012Validator.check_schema(document)
        for reference in references(document):
            assert resolve(document, reference)

    @given(frame=st.one_of(*CLIENT.values()))
    def test_every_frame_of_a_client_is_valid(self, frame: ClientFrame) -> None:
        validator("ClientFrame").validate(json.loads(frames.encode(frame)))

    @given(frame=st.one_of(*SERVER.values()))
    def test_every_frame_of_the_server_is_valid(self, frame: ServerFrame) -> None:
        validator("ServerFrame").validate(json.loads(frames.encode(frame)))

    @pytest.mark.parametrize("union", ["ClientFrame", "ServerFrame"])
    @given(data=st.data(), other=values, is_left_out=st.booleans())
    @pytest.mark.sampled(1 / 2)
    def test_what_is_changed_anywhere_is_valid_if_the_decoder_accepts_it(
        self, union: str, data: st.DataObject, other: Any, is_left_out: bool
    ) -> None:
        frame = data.draw(st.one_of(*(CLIENT if union == "ClientFrame" else SERVER).values()))
        fields = json.loads(frames.encode(frame))
        held, key = data.draw(st.sampled_from(list(places(fields))))
        if is_left_out:
            del held[key]
        else:
            held[key] = other

        assert validator(union).is_valid(fields) == is_accepted(union, fields)

    @pytest.mark.sampled(5)
    @pytest.mark.parametrize("frame", [*CLIENT, *SERVER], ids=lambda frame: frame.__name__)
    @given(data=st.data())
    def test_a_frame_without_a_field_that_is_needed_is_not_valid(self, frame: type[Any], data: st.DataObject) -> None:
        union = "ClientFrame" if frame in CLIENT else "ServerFrame"
        fields = json.loads(frames.encode(data.draw({**CLIENT, **SERVER}[frame])))
        del fields[data.draw(st.sampled_from(schema.frames_schema()["$defs"][frame.__name__]["required"]))]

        assert not is_accepted(union, fields)
        assert not validator(union).is_valid(fields)

    @pytest.mark.parametrize(
        "frame", [*CLIENT, *SERVER, frames.Item, frames.AgentView], ids=lambda frame: frame.__name__
    )
    def test_it_describes_every_frame_as_its_docstring_does(self, frame: type) -> None:
        described = schema.frames_schema()["$defs"][frame.__name__]["description"]

        assert described == " ".join((frame.__doc__ or "").split()) != ""

    def test_it_describes_a_field_by_what_stands_below_it_also_in_a_base(self) -> None:
        fields = schema.frames_schema()["$defs"]["Subscribe"]["properties"]

        assert fields["agent"]["description"] == 'An id, or `"*"` for all agents.'
        assert fields["id"]["description"] == "Chosen by the client; echoed in the reply."
        assert fields["type"] == {"const": "subscribe"}


class TestAsyncapi:
    def test_it_refers_to_what_is_there(self) -> None:
        document = schema.asyncapi()

        for reference in references(document):
            assert resolve(document, reference)

    def test_every_frame_of_a_client_is_received_and_every_frame_of_the_server_is_sent(self) -> None:
        operations = schema.asyncapi()["operations"]

        received = {name for name, operation in operations.items() if operation["action"] == "receive"}
        sent = [
            reference.rpartition("/")[2]
            for operation in operations.values()
            for reference in references([operation.get("reply", operation if operation["action"] == "send" else [])])
        ]

        assert received == {str(frame.__struct_config__.tag) for frame in get_args(ClientFrame)}
        assert set(sent) - {"socket"} == {str(frame.__struct_config__.tag) for frame in get_args(ServerFrame)}

    def test_every_code_is_there_with_its_meaning(self) -> None:
        errors, closes = schema.asyncapi()["x-error-codes"], schema.asyncapi()["x-close-codes"]

        assert {name: code["retry"] for name, code in errors.items()} == {code: code.retry for code in ErrorCode}
        assert {name: code["come_back"] for name, code in closes.items()} == {
            str(code.value): code.come_back for code in CloseCode
        }
        assert all(code["description"] for code in [*errors.values(), *closes.values()])


class TestDocuments:
    @pytest.mark.parametrize("name", ["frames.schema.json", "asyncapi.json", "protocol.md"])
    def test_what_is_in_docs_is_what_the_types_say(self, name: str) -> None:
        assert (DOCS / name).read_text("utf-8") == documents.documents(DOCS)[DOCS / name], "run `make protocol`"

    def test_the_server_hands_out_what_the_types_say(self) -> None:
        shipped = resources.files("commitcast.gateway.protocol").joinpath("asyncapi.json")

        assert shipped.read_text("utf-8") == documents.served(), "run `make protocol`"

    def test_every_table_stands_in_the_description_of_the_protocol(self) -> None:
        assert set(re.findall("<!-- generated: (.+) -->", PROTOCOL)) == set(documents.TABLES)
        assert PROTOCOL.count("<!-- end -->") == len(documents.TABLES)

    def test_the_command_writes_tables_between_the_marks_and_nothing_else(self, tmp_path: Path) -> None:
        page = tmp_path / "protocol.md"
        page.write_text("before\n<!-- generated: close codes -->\n\n| old |\n\n<!-- end -->\nafter\n", "utf-8")

        documents.main(tmp_path, tmp_path / "shipped.json")

        written = page.read_text("utf-8")
        assert written.startswith("before\n<!-- generated: close codes -->\n\n| code | name | come back | meaning |\n")
        assert written.endswith(" |\n\n<!-- end -->\nafter\n")
        assert "old" not in written
        assert json.loads((tmp_path / "asyncapi.json").read_text("utf-8")) == schema.asyncapi()
        assert json.loads((tmp_path / "frames.schema.json").read_text("utf-8")) == schema.frames_schema()
        assert json.loads((tmp_path / "shipped.json").read_text("utf-8")) == schema.asyncapi()

    def test_a_table_that_there_is_not_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "protocol.md").write_text("<!-- generated: nothing -->\n<!-- end -->\n", "utf-8")

        with pytest.raises(KeyError, match="nothing"):
            documents.documents(tmp_path)

    @pytest.mark.parametrize("line", re.findall("^[<>] .+$", PROTOCOL, re.MULTILINE), ids=lambda line: line[:30])
    def test_the_conversation_is_made_of_frames(self, line: str) -> None:
        union = "ClientFrame" if line[0] == ">" else "ServerFrame"
        fields = json.loads(line[2:])

        validator(union).validate(fields)
        assert is_accepted(union, fields)
