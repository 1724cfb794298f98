"""Who may do what: grants, and the plain tokens that stand for them."""

import hmac
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.access.auth import (
    ANYBODY,
    EVERYTHING,
    MAX_TOKEN_BYTES,
    MAX_TOKENS,
    Capability,
    Grant,
    Operation,
    StaticTokens,
)
from commitcast.gateway.server.errors import TokenError
from commitcast.persistence.errors import InvalidValueError

SECRET = "s3cret-of-a-token"
READ = frozenset({Operation.READ})
ids = st.text(st.sampled_from("abAZ09._:-"), min_size=1, max_size=8)


@pytest.fixture(autouse=True)
def no_log_record_holds_the_token(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert SECRET not in caplog.text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(0o600)
    return path


def tokens_of(path: Path, text: str | bytes) -> StaticTokens:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return StaticTokens.from_file(path)


def refusal_of(path: Path, text: str | bytes) -> str:
    """Return why a file is refused, having looked for the token in everything that a log could show of it."""
    with pytest.raises(InvalidValueError) as refused:
        tokens_of(path, text)
    shown = "".join(traceback.format_exception(refused.value)) + repr(refused.value.args)
    assert SECRET not in shown
    assert "\n" not in str(refused.value)
    return str(refused.value)


class TestACapability:
    def test_on_an_id_covers_that_agent_alone(self) -> None:
        held = Capability("org1:a", READ)

        assert held.covers("org1:a")
        assert not held.covers("org1:ab")
        assert not held.covers("org1:")

    def test_on_a_prefix_covers_what_begins_with_it_and_not_everything(self) -> None:
        held = Capability("org1:*", READ)

        assert held.covers("org1:a") and held.covers("org1:")
        assert not held.covers("org10:a")
        assert not held.covers("org1")
        assert not held.covers("ORG1:a")
        assert not held.covers("*")

    @settings(deadline=None)
    @given(ids)
    def test_on_a_star_covers_every_agent(self, agent: str) -> None:
        assert Capability("*", READ).covers(agent)

    @settings(deadline=None)
    @given(ids, ids)
    def test_covers_by_its_letters_and_not_as_a_pattern(self, agent: str, other: str) -> None:
        assert Capability(agent, READ).covers(other) == (agent == other)
        assert Capability(f"{agent}*", READ).covers(other) == other.startswith(agent)

    @pytest.mark.parametrize(
        "agent", ["", "**", "a*b", "*a", "org 1", "org1/*", "é", "a\n", "a" * 129, "a" * 129 + "*"]
    )
    def test_on_what_is_neither_id_nor_prefix_is_refused(self, agent: str) -> None:
        with pytest.raises(InvalidValueError, match="is not a valid agent id"):
            Capability(agent, READ)

    def test_without_operations_is_refused(self) -> None:
        with pytest.raises(InvalidValueError, match="needs an operation"):
            Capability("*", frozenset())

    @pytest.mark.parametrize("operations", [frozenset({"raed"}), frozenset({Operation.READ, ""}), "read", ["read"], 5])
    def test_on_an_unknown_operation_is_refused(self, operations: Any) -> None:
        with pytest.raises(InvalidValueError, match=r"^operations must be a frozenset of read, send, .*, not [^\n]+$"):
            Capability("*", operations)


class TestAGrant:
    def test_allows_only_the_operations_of_the_capability_that_covers_the_agent(self) -> None:
        grant = Grant("ann", (Capability("a:*", READ), Capability("b:1", frozenset({Operation.SEND}))))

        assert grant.allows(Operation.READ, "a:1")
        assert grant.allows(Operation.SEND, "b:1")
        assert not grant.allows(Operation.SEND, "a:1")
        assert not grant.allows(Operation.READ, "b:1")

    def test_allows_everywhere_only_what_it_holds_on_a_star(self) -> None:
        grant = Grant("ann", (Capability("*", READ), Capability("a:*", frozenset({Operation.ADMIN}))))

        assert grant.allows_everywhere(Operation.READ)
        assert not grant.allows_everywhere(Operation.ADMIN)
        assert grant.allows(Operation.ADMIN, "a:1")

    def test_without_capabilities_allows_nothing(self) -> None:
        grant = Grant("ann", ())

        assert not any(grant.allows(operation, "a") or grant.allows_everywhere(operation) for operation in Operation)
        assert grant.launch_prefix() is None

    @pytest.mark.parametrize(
        ("agents", "prefix"),
        [(("org1:*",), "org1:"), (("*",), ""), (("org1:a",), None), (("org1:a", "b:*", "c:*"), "b:"), ((), None)],
    )
    def test_launches_under_its_first_prefix_with_that_right(self, agents: tuple[str, ...], prefix: str | None) -> None:
        launch = frozenset({Operation.LAUNCH})
        grant = Grant("ann", (Capability("read:*", READ), *(Capability(agent, launch) for agent in agents)))

        assert grant.launch_prefix() == prefix

    def test_expires_at_its_time_and_not_before(self) -> None:
        grant = Grant("ann", (), expires_at=100.0)

        assert not grant.has_expired(99.999)
        assert grant.has_expired(100.0)
        assert not Grant("ann", ()).has_expired(1e300)
        assert Grant("ann", (), expires_at=float("nan")).has_expired(0.0)


def test_anybody_may_read_and_see_metrics_and_do_nothing_else() -> None:
    assert ANYBODY.subject == "anybody"
    assert {operation for operation in Operation if ANYBODY.allows(operation, "a")} == {"read", "admin"}
    assert {operation for operation in Operation if ANYBODY.allows_everywhere(operation)} == {"read", "admin"}
    assert ANYBODY.launch_prefix() is None


class TestASingleToken:
    def test_may_do_everything(self) -> None:
        grant = StaticTokens.single(SECRET).verify(SECRET)

        assert grant == Grant("token-1", (EVERYTHING,))
        assert all(grant.allows_everywhere(operation) for operation in Operation)

    @pytest.mark.parametrize(
        "presented", ["", SECRET[:-1], SECRET + "x", SECRET + " ", SECRET.upper(), "é", "\ud800", "\0" + SECRET]
    )
    def test_is_accepted_in_no_other_spelling(self, presented: str) -> None:
        with pytest.raises(TokenError) as refused:
            StaticTokens.single(SECRET).verify(presented)

        assert refused.value.error_code is ErrorCode.UNAUTHENTICATED
        assert str(refused.value) == "this token is not accepted: ask for a new one"

    def test_may_have_spaces_inside(self) -> None:
        assert StaticTokens.single("four words in all").verify("four words in all").subject == "token-1"

    @pytest.mark.parametrize("token", ["", "café", "a\tb", "a\n", "a\0b", "a" * (MAX_TOKEN_BYTES + 1)])
    def test_that_no_client_could_present_is_refused(self, token: str) -> None:
        with pytest.raises(InvalidValueError, match="1 to 8,192 printable ASCII characters"):
            StaticTokens.single(token)

    def test_is_not_kept(self) -> None:
        tokens = StaticTokens.single(SECRET)

        assert SECRET not in repr(tokens) + repr(vars(tokens))


class TestATokenFile:
    def test_of_one_line_is_a_token_for_everything(self, path: Path) -> None:
        grant = tokens_of(path, f"  {SECRET} \t\r\n").verify(SECRET)

        assert grant == StaticTokens.single(SECRET).verify(SECRET)

    def test_needs_no_newline_at_its_end(self, path: Path) -> None:
        assert tokens_of(path, SECRET).verify(SECRET).subject == "token-1"

    def test_limits_tokens_to_operations_on_agents(self, path: Path) -> None:
        tokens = tokens_of(path, f"{SECRET} read,send org1:* launch org2:*\nviewer read *\nall\n")

        assert tokens.verify(SECRET).capabilities == (
            Capability("org1:*", frozenset({Operation.READ, Operation.SEND})),
            Capability("org2:*", frozenset({Operation.LAUNCH})),
        )
        assert tokens.verify("viewer").capabilities == (Capability("*", READ),)
        assert tokens.verify("all").capabilities == (EVERYTHING,)

    def test_names_subjects_by_the_order_of_tokens(self, path: Path) -> None:
        tokens = tokens_of(path, "# für die Maschine\n\na\n   \n  # another\nb read *\r\nc\n")

        assert [tokens.verify(token).subject for token in "abc"] == ["token-1", "token-2", "token-3"]

    def test_does_not_take_a_comment_for_a_token(self, path: Path) -> None:
        tokens = tokens_of(path, f"#{SECRET}\na\n")

        with pytest.raises(TokenError):
            tokens.verify(f"#{SECRET}")

    @pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", " \t\r\n"])
    def test_without_a_token_is_refused(self, path: Path, text: str) -> None:
        assert refusal_of(path, text).startswith(f"the token file {path} has no token: ")

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("{} read", "pairs of operations and agents"),
            ("{} read * send", "pairs of operations and agents"),
            ("{} reed *", "operations are read, send, launch, terminate, admin, separated by commas"),
            ("{} READ *", "operations are"),
            ("{} read, *", "operations are"),
            ("{} read *,org1", "agents are an id"),
            ("{} read **", "agents are an id"),
            ("{} read " + "a" * 129, "agents are an id"),
            ("a {} *", "operations are"),  # a sentence with spaces: its other words are secret too
            ("a read {}/", "agents are an id"),
            ("{}é", "printable ASCII"),
            ("{}\x7f", "printable ASCII"),
            ("{}\ufeff", "printable ASCII"),
            ("x" * (MAX_TOKEN_BYTES + 1), "printable ASCII"),
            ("other", "this repeats token-1"),
            ("other read *", "this repeats token-1"),
        ],
    )
    def test_with_a_wrong_line_is_refused_by_its_number(self, path: Path, line: str, why: str) -> None:
        shown = refusal_of(path, f"other\n# comment\n{line.format(SECRET)}\nlast\n")

        assert shown.startswith(f"line 3 of the token file {path} is invalid: ")
        assert why in shown

    def test_that_is_no_text_is_refused(self, path: Path) -> None:
        assert "line 1 " in refusal_of(path, b"\xff\xfe" + SECRET.encode("utf-16-le"))

    def test_with_too_many_tokens_is_refused(self, path: Path) -> None:
        lines = [f"token{number}" for number in range(MAX_TOKENS)]

        assert tokens_of(path, "\n".join(lines)).verify(lines[-1]).subject == f"token-{MAX_TOKENS}"
        assert f"line {MAX_TOKENS + 1} " in refusal_of(path, "\n".join([*lines, SECRET]))

    def test_that_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidValueError, match=r"tokens cannot be read: No such file or directory$"):
            StaticTokens.from_file(tmp_path / "tokens")
        with pytest.raises(InvalidValueError, match="cannot be read: Is a directory"):
            StaticTokens.from_file(tmp_path)

    @settings(deadline=None)
    @given(st.binary(max_size=60) | st.text(st.sampled_from("ab,*# \n\tread"), max_size=60).map(str.encode))
    def test_is_read_or_refused_and_nothing_else(self, content: bytes) -> None:
        with NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            try:
                StaticTokens.from_file(file.name)
            except InvalidValueError as error:
                assert f"the token file {file.name} " in str(error)

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
    def test_that_others_may_use_is_taken_with_one_warning(
        self, path: Path, caplog: pytest.LogCaptureFixture, mode: int
    ) -> None:
        path.chmod(mode)

        tokens_of(path, SECRET)

        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage().endswith(f"chmod 600 {path}")

    @pytest.mark.parametrize("mode", [0o600, 0o400])
    def test_of_ones_own_is_taken_without_a_warning(
        self, path: Path, caplog: pytest.LogCaptureFixture, mode: int
    ) -> None:
        path.write_text(SECRET)
        path.chmod(mode)

        StaticTokens.from_file(path)

        assert caplog.records == []


@pytest.mark.parametrize("presented", ["a", "c", "none"])
def test_every_token_is_compared_whichever_is_presented(
    path: Path, monkeypatch: pytest.MonkeyPatch, presented: str
) -> None:
    tokens = tokens_of(path, "a\nb\nc\n")
    lengths: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        lengths.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    try:
        tokens.verify(presented)
    except TokenError:
        assert presented == "none"

    assert lengths == [(32, 32)] * 3


def test_a_token_error_is_a_permission_error_with_one_sentence() -> None:
    error = TokenError("the token has expired: get a new one", error_code=ErrorCode.TOKEN_EXPIRED)

    assert isinstance(error, PermissionError)
    assert str(error) == "the token has expired: get a new one"
    assert error.error_code is ErrorCode.TOKEN_EXPIRED
    assert TokenError("no").error_code is ErrorCode.UNAUTHENTICATED
