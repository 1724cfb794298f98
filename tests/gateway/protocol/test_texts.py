"""What is read as one text, by the cases that all readers share, and what only this one can be given."""

import msgspec
import pytest

from commitcast.gateway.protocol.frames import Item
from commitcast.gateway.protocol.texts import Place, Texts
from texts import CASES, Case


def item(
    content: str, *, type: str = "assistant", agent: str | None = None, metadata: object = None, sequence: int = 1
) -> Item:
    return Item(sequence, type, None, content, "text", metadata, "", agent=agent)


def read(items: list[Item]) -> list[tuple[int, str]]:
    texts = Texts()
    shown: list[tuple[int, str]] = []
    for each in items:
        match texts.place(each):
            case Place.NEW:
                shown.append((each.sequence, each.content))
            case Place.JOINS:
                shown[-1] = (shown[-1][0], shown[-1][1] + each.content)
    return shown


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_person_reads(case: Case) -> None:
    assert [(sequence, text.strip()) for sequence, text in read(case.items)] == case.shown


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_metadata_is_read_as_it_is_stored(case: Case) -> None:
    stored = [
        msgspec.structs.replace(each, metadata=each.metadata and msgspec.Raw(msgspec.json.encode(each.metadata)))
        for each in case.items
    ]

    assert read(stored) == read(case.items)


def test_texts_of_several_agents_are_not_joined_with_each_other() -> None:
    texts = Texts()
    delta = {"delta": True}

    places = [texts.place(item(agent, agent=agent, metadata=delta)) for agent in ("a", "a", "b", "a", "a")]

    assert places == [Place.NEW, Place.JOINS, Place.NEW, Place.NEW, Place.JOINS]


def test_an_agent_is_known_by_its_own_answer_only() -> None:
    texts = Texts()
    texts.place(item("yes", agent="a"))
    texts.place(item("no", agent="b"))

    assert texts.place(item("no", type="response", agent="a")) is Place.NEW
    assert texts.place(item("yes", type="response", agent="a")) is Place.HIDDEN


@pytest.mark.parametrize("metadata", [[], "text", 5, {"event": ["a"], "parent_tool_use_id": {}}, {"delta": 1}])
def test_any_metadata_is_taken(metadata: object) -> None:
    assert Texts().place(item("text", metadata=metadata)) is Place.NEW


def test_a_very_long_answer_is_not_kept_to_be_known_again() -> None:
    texts = Texts()
    piece = "x" * 1024
    for _ in range(2_000):
        texts.place(item(piece, metadata={"delta": True}))

    assert texts.place(item(2_000 * piece, type="response")) is Place.NEW


def test_of_very_many_agents_the_oldest_are_forgotten() -> None:
    texts = Texts()
    for number in range(1_000):
        texts.place(item("yes", agent=f"agent-{number}"))

    assert texts.place(item("yes", type="response", agent="agent-0")) is Place.NEW
    assert texts.place(item("yes", type="response", agent="agent-999")) is Place.HIDDEN
