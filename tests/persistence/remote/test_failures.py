"""An error that crosses a connection is the same error on the other side, as far as that side has its class."""

from typing import Self

from commitcast.actors.errors import InputRefusedError
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.errors import TokenError
from commitcast.persistence.errors import (
    AgentNotFoundError,
    CommitcastError,
    HostError,
    NotStoredError,
    ServerError,
    StoreOpenError,
)
from commitcast.persistence.records import AgentStatus
from commitcast.persistence.remote.failures import error_of, failure_of
from commitcast.persistence.remote.frames import Answer, Failure, pack, unpack
from every_error import errors, example


def sent(failure: Failure) -> Failure:
    """A failure as the other side receives it."""
    answer = unpack(pack(Answer(1, failure=failure))[4:])
    assert isinstance(answer, Answer) and answer.failure is not None
    return answer.failure


def crossed(error: BaseException) -> CommitcastError:
    """An error as the other side has it."""
    return error_of(sent(failure_of(error)))


def test_every_error_survives_with_its_class_facts_and_text() -> None:
    for kind in errors():
        error = example(kind)
        error.add_note("a note")

        other = crossed(error)

        assert type(other) is kind
        assert (str(other), list(other.args), vars(other)) == (str(error), list(error.args), vars(error))
        assert (other.code, other.retryable) == (error.code, error.retryable)
        assert getattr(other, "errno", None) == getattr(error, "errno", None)


def test_a_member_of_an_enumeration_is_one_again() -> None:
    other = crossed(TokenError("no", error_code=ErrorCode.TOKEN_EXPIRED))

    assert isinstance(other, TokenError) and other.error_code is ErrorCode.TOKEN_EXPIRED
    assert failure_of(TokenError("no")).enums == {"error_code": "commitcast.gateway.protocol.errors:ErrorCode"}


class _Picky(CommitcastError):
    def __new__(cls, *args: object) -> Self:
        if args:
            raise TypeError("it takes no arguments")
        return super().__new__(cls)

    def __init__(self) -> None:
        super().__init__("of its own")


def test_an_error_that_cannot_be_made_again_keeps_its_text() -> None:
    other = crossed(_Picky())

    assert type(other) is ServerError and str(other) == "of its own"


class _HostsOwnError(CommitcastError):
    code = "conflict"
    retryable = True

    def __init__(self, why: str) -> None:
        self.why = why

    def __str__(self) -> str:
        return f"because {self.why}"


def test_an_error_whose_class_is_not_loaded_there_keeps_text_code_and_whether_to_retry() -> None:
    failure = sent(failure_of(_HostsOwnError("of this")))
    failure = Failure("not.loaded:HostsOwnError", failure.arguments, failure.facts, *failure_of_rest(failure))

    for otherwise in (ServerError, HostError):
        other = error_of(failure, otherwise)

        assert type(other) is otherwise
        assert (str(other), other.code, other.retryable) == ("because of this", "conflict", True)


def failure_of_rest(failure: Failure) -> tuple[str, str, bool]:
    return failure.text, failure.code, failure.retryable


def test_an_error_that_is_passed_on_by_a_process_without_its_class_has_it_again_where_it_is_loaded() -> None:
    first = failure_of(InputRefusedError("a", "is busy"))
    unknown_there = Failure("not.loaded:InputRefusedError", first.arguments, first.facts, first.text)
    between = error_of(sent(unknown_there), HostError)

    assert type(between) is HostError
    assert sent(failure_of(between)) == sent(unknown_there)


def test_an_error_of_python_is_one_of_the_server_with_its_class_in_the_text() -> None:
    other = crossed(KeyError("what"))

    assert type(other) is ServerError
    assert (str(other), other.code, other.retryable) == ("KeyError: 'what'", "internal", False)


def test_whatever_an_error_holds_it_can_be_sent() -> None:
    nested = {"a": {1: object()}}
    for value in ("\ud800", 2**70, object(), nested, ("\udcff",), [2**64], {1, 2}, b"\xff", 1.5, AgentStatus.FAILED):
        error = NotStoredError("text", value)
        error.fact = value  # type: ignore[attr-defined]  # of a host's own class, say

        other = crossed(error)

        assert type(other) is NotStoredError and other.args[0] == "text" and hasattr(other, "fact")


def test_a_path_that_is_not_utf8_is_shown_escaped() -> None:
    assert str(crossed(StoreOpenError("/\udcff.db", "no"))) == "cannot open /\\udcff.db: no"


def test_only_errors_of_ours_are_made_of_a_name() -> None:
    for name in ("builtins:SystemExit", "os:system", "commitcast.persistence.errors:Any", "nothing", ":", ""):
        failure = Failure(name, ["ls"], {}, "text")

        assert type(error_of(failure)) is ServerError


def test_an_unknown_fact_is_kept() -> None:
    """As of a newer version, or a host's own."""
    failure = failure_of(AgentNotFoundError("a"))
    failure.facts["more"] = 1

    assert vars(error_of(sent(failure))) == {"agent": "a", "more": 1}
