"""The writes that a store's `commit` accepts, as values, and the checks of what can be stored.

A value that would not be read back equal is refused here, with one sentence, before it is queued anywhere. Pure; used
from any thread.
"""

import math
import re
from typing import Any, Final

import msgspec

from commitcast.persistence.errors import IdempotencyConflictError, InvalidValueError
from commitcast.persistence.records import (
    MESSAGE_TYPES,
    AgentRecord,
    AgentStatus,
    Committed,
    MessageRecord,
    StatusChange,
)

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""Content, raw and metadata of one message together. One row is held in memory several times over."""

MAX_JSON_LEVELS: Final = 200
"""Decoders fail near 1,000 levels, and sooner with little stack left: that must not happen to a reader."""
MAX_PLACE_LENGTH: Final = 200
"""Characters of an error that name the place of a value."""

_AGENT_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,128}")
_encode_json: Final = msgspec.json.Encoder().encode
_decode_json: Final = msgspec.json.Decoder().decode


class NewMessage(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=0, tag_field="kind"):
    """A message to be stored. Made by `new_message`, which has checked it."""

    type: str
    role: str | None
    content: str
    content_type: str
    created_at: str
    size: int
    """Bytes of content, metadata and raw, which count for every bound."""
    metadata_json: str | None = None
    raw: bytes | None = None
    key: str | None = None

    def stored(self, agent: str, sequence: int, position: int) -> MessageRecord:
        """Return it as it is stored."""
        return MessageRecord(
            agent,
            sequence,
            position,
            self.type,
            self.role,
            self.content,
            self.content_type,
            self.created_at,
            self.metadata_json,
            self.raw,
            self.key,
        )


def repeated(kept: MessageRecord, new: NewMessage) -> MessageRecord | IdempotencyConflictError:
    """Return the reply to a message that is sent again with its key: the stored one, or a conflict if it differs."""
    same = (kept.type, kept.content, kept.content_type) == (new.type, new.content, new.content_type)
    return kept if same else IdempotencyConflictError(str(new.key), "message")


class NewAgent(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True, tag=1, tag_field="kind"):
    """An agent to be inserted, with its first messages."""

    epoch: str
    type: str
    created_at: str
    prompt: str = ""
    configuration_json: str = "{}"
    idempotency_key: str | None = None
    messages: tuple[NewMessage, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of its text and of its messages, which count for every bound."""
        return texts_size(self.prompt, self.configuration_json) + sum(message.size for message in self.messages)

    def stored(self, agent: str, position: int) -> AgentRecord:
        """Return it as it is stored."""
        return AgentRecord(
            id=agent,
            epoch=self.epoch,
            position=position,
            type=self.type,
            status=AgentStatus.INITIALIZING,
            head=len(self.messages),
            prompt=self.prompt,
            created_at=self.created_at,
            idempotency_key=self.idempotency_key,
            configuration_json=self.configuration_json,
        )


class NewStatus(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True, tag=2, tag_field="kind"):
    """A change of status, applied only if the agent still has the status `previous`."""

    previous: AgentStatus
    status: AgentStatus
    at: str
    reason: str | None = None
    error_name: str | None = None
    error_message: str | None = None
    result_json: str | None = None
    wants_record: bool = True
    """Whether the reply is to be the agent's record; else it is the `StatusChange`, which costs less."""

    @property
    def size(self) -> int:
        """Bytes of its text, which count for every bound."""
        return texts_size(self.reason, self.error_name, self.error_message, self.result_json)

    def stored(self, agent: str, sequence: int, position: int) -> StatusChange:
        """Return it as it is stored, after the message with that sequence."""
        return StatusChange(
            agent=agent,
            position=position,
            previous=self.previous,
            status=self.status,
            sequence=sequence,
            at=self.at,
            reason=self.reason,
            error_name=self.error_name,
            error_message=self.error_message,
            result_json=self.result_json,
        )


class AgentPatch(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=3, tag_field="kind"):
    """New facts about a running agent. None leaves a column unchanged."""

    configuration_json: str | None = None
    pid: int | None = None
    pid_started: str | None = None

    @property
    def size(self) -> int:
        """Bytes of its text, which count for every bound."""
        return texts_size(self.configuration_json)


Write = NewAgent | NewMessage | NewStatus | AgentPatch


class AgentWrites(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The writes of one agent in one transaction, in order."""

    agent: str
    writes: list[Write]

    def only_plain_messages(self) -> bool:
        """Whether all are messages without a key: then none depends on what is stored."""
        for write in self.writes:
            if type(write) is not NewMessage or write.key:
                break
        else:
            return True
        return False


Reply = MessageRecord | AgentRecord | StatusChange | Exception
"""The answer to one write: the record as stored, or why it was refused."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The result of one `AgentWrites`: the proof of what was committed, and one reply for each write, in order."""

    committed: Committed | None
    replies: list[Reply]
    refused: bool = False
    """Whether a message was refused, so that what its agent sent after it must be refused too."""


def needs_preceding(write: Write) -> bool:
    """Whether a write would be wrong if a message before it were missing: a further message, or `completed`."""
    return isinstance(write, NewMessage) or (isinstance(write, NewStatus) and write.status is AgentStatus.COMPLETED)


def check_agent_id(agent: str) -> str:
    """Return the id if it can be one.

    Raises:
        InvalidValueError: it is not 1 to 128 of the characters A-Z a-z 0-9 . _ : -
    """
    if not isinstance(agent, str) or not _AGENT_ID.fullmatch(agent):
        raise InvalidValueError(
            f"{agent!r:.200} is not a valid agent id: use 1 to 128 of the characters A-Z a-z 0-9 . _ : -"
        )
    return agent


def check_name(value: str | None, what: str) -> str | None:
    """Return a short name (a type, a role, a key) if it is one, or None.

    Raises:
        InvalidValueError: it is empty, longer than 128 characters, or holds control characters or lone surrogates.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidValueError(f"{what} {value!r:.200} must be 1 to 128 characters without control characters")
    encode_text(value, what)
    return value


def encode_text(text: str, what: str) -> bytes:
    """Return the text as UTF-8.

    Raises:
        InvalidValueError: it is not text, holds a lone surrogate, which UTF-8 cannot encode, or is too large.
    """
    if not isinstance(text, str):
        raise InvalidValueError(f"{what} must be text, not {type(text).__name__}")
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"{what} has a lone surrogate at character {error.start}, which cannot be stored: "
            "decode the source with errors='replace', and pass the original bytes as raw"
        ) from None
    _check_size(encoded, what)
    return encoded


def _check_size(encoded: bytes, what: str) -> None:
    if len(encoded) > MAX_MESSAGE_BYTES:
        raise InvalidValueError(
            f"{what} has {len(encoded):,} bytes and the limit is {MAX_MESSAGE_BYTES:,}: store a reference instead"
        )


def encode_json(value: Any, what: str) -> str:
    """Return the value as JSON text that decodes to an equal value (tuples come back as lists).

    Raises:
        InvalidValueError: JSON cannot represent it, and the error names the place; or it is too large.
    """
    encoded = _encoded_json(value, what)
    _check_size(encoded, what)
    return encoded.decode()


def _encoded_json(value: Any, what: str) -> bytes:
    try:
        encoded = _encode_json(value)
        has_few_levels = encoded.count(b"[") + encoded.count(b"{") <= MAX_JSON_LEVELS  # more are counted one by one
        if has_few_levels and _decode_json(encoded) == value:
            return encoded
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass
    _check_json(value, what, 0)
    try:
        return _encode_json(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidValueError(f"{what} cannot be represented in JSON: {error}") from None


def _check_json(value: Any, path: str, depth: int) -> None:
    if depth > MAX_JSON_LEVELS:
        raise InvalidValueError(f"{path} is nested deeper than {MAX_JSON_LEVELS} levels")
    if value is None or isinstance(value, (bool, int)):
        return
    if isinstance(value, str):
        encode_text(value, path)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidValueError(f"{path} is {value}, which JSON cannot represent: send None or text")
    elif isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise InvalidValueError(f"{path} has a key of type {type(name).__name__}: keys in JSON are text")
            encode_text(name, f"a key of {path}")
            step = f".{name:.80}" if name.isidentifier() else f"[{name!r:.80}]"
            _check_json(inner, _place(path, step), depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _check_json(inner, _place(path, f"[{index}]"), depth + 1)
    else:
        raise InvalidValueError(f"{path} is a {type(value).__name__}, which JSON cannot represent")


def _place(path: str, step: str) -> str:
    if len(path) > MAX_PLACE_LENGTH:
        return path if path.endswith("…") else f"{path}…"
    return f"{path}{step}"


def text_size(text: str) -> int:
    """Return the number of bytes of a text in UTF-8. Constant time for ASCII. Counts lone surrogates too."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def texts_size(*texts: str | None) -> int:
    """Return the sum of the sizes of several texts, of which some may be missing."""
    return sum(text_size(text) for text in texts if text is not None)


def new_message(
    content: Any,
    *,
    created_at: str,
    type: str = "assistant",
    role: str | None = None,
    metadata: dict[str, Any] | None = None,
    raw: bytes | str | None = None,
    key: str | None = None,
) -> NewMessage:
    """Check a message and return it ready to be queued.

    Args:
        content: text, kept as text even if it looks like a number; or a JSON object or array.
        created_at: RFC 3339.
        type: one of `MESSAGE_TYPES`.
        role: the speaker, free text of up to 128 characters.
        metadata: a JSON object.
        raw: the producer's own bytes, kept as they are; text is encoded as UTF-8.
        key: makes a repeated send of the same message harmless; unique per agent.

    Raises:
        InvalidValueError: something in it cannot be stored without loss.
    """
    content_type = "text"
    if type not in MESSAGE_TYPES:
        raise InvalidValueError(f"{type!r:.80} is not a message type: use one of {', '.join(MESSAGE_TYPES)}")
    if not isinstance(content, str):
        if not isinstance(content, (dict, list)):
            raise InvalidValueError(
                f"content must be text, or a dict or list for JSON, not {content.__class__.__name__}"
            )
        content, content_type = encode_json(content, "content"), "json"
    size = len(content) if content.isascii() else len(encode_text(content, "content"))  # lone surrogates end here
    metadata_json = None
    if metadata is not None:
        if not isinstance(metadata, dict):
            raise InvalidValueError(f"metadata must be a dict, not {metadata.__class__.__name__}")
        metadata_json = encode_json(metadata, "metadata")
        size += text_size(metadata_json)
    if raw is not None:
        if not isinstance(raw, (str, bytes, bytearray, memoryview)):
            raise InvalidValueError(f"raw must be bytes or text, not {raw.__class__.__name__}")
        raw = encode_text(raw, "raw") if isinstance(raw, str) else bytes(raw)
        size += len(raw)
    if size > MAX_MESSAGE_BYTES:
        raise InvalidValueError(
            f"the message has {size:,} bytes and the limit is {MAX_MESSAGE_BYTES:,}: split it, or store a reference"
        )
    if role is not None:
        check_name(role, "role")
    if key is not None:
        check_name(key, "key")
    return NewMessage(type, role, content, content_type, created_at, size, metadata_json, raw, key)
