"""The protocol as JSON Schema and AsyncAPI, made from its types and their docstrings.

Must never say what the types do not: a description comes from the docstring of the class or below the attribute.
"""

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any, Final, get_args

import msgspec

from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import CloseCode, ErrorCode
from commitcast.gateway.protocol.frames import PATH

PROTOCOL_VERSION: Final = "1"
"""That of `commitcast.v1.json`. What an older client can ignore does not change it."""

CLIENT_FRAMES: Final[tuple[type[msgspec.Struct], ...]] = get_args(frames.ClientFrame)
SERVER_FRAMES: Final[tuple[type[msgspec.Struct], ...]] = get_args(frames.ServerFrame)
REPLIES: Final[dict[type[msgspec.Struct], type[msgspec.Struct] | None]] = {
    frames.Hello: frames.Ok,
    frames.Subscribe: frames.Subscribed,
    frames.Unsubscribe: frames.Ok,
    frames.Ack: None,
    frames.Ping: frames.Ok,
    frames.Launch: frames.Ok,
    frames.Send: frames.Ok,
    frames.Terminate: frames.Ok,
}
"""What answers a client's frame that is not refused."""

Json = dict[str, Any]
NULL: Final = {"type": "null"}


# What the docstrings say.


@cache
def docstrings(module: ModuleType) -> dict[str, dict[str, str]]:
    """Return the docstrings of a module's classes: under "" the class's own, under a name that below the attribute."""
    tree = ast.parse(inspect.getsource(module))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {node.name: {"": _line(ast.get_docstring(node) or ""), **dict(_below(node))} for node in classes}


def _below(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for attribute, following in pairwise(node.body):
        match attribute, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, _line(text)


def _line(text: str) -> str:
    return " ".join(text.split())


def meaning_of(of: type, attribute: str = "") -> str:
    """Return what a class's docstring says, or the one below an attribute of it or of a base; "" for none."""
    known = docstrings(sys.modules[of.__module__])
    return next(filter(None, (known.get(base.__name__, {}).get(attribute) for base in of.__mro__)), "")


def tag_of(frame: type[msgspec.Struct]) -> str:
    """Return the `type` of a frame."""
    return str(frame.__struct_config__.tag)


# JSON Schema.


@cache
def frames_schema() -> Json:
    """Return the JSON Schema (2020-12) of all frames; the caller must not change it.

    A field that it does not know is valid, as it is for both sides.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": frames.SUBPROTOCOL,
        "description": "One frame. Fields that are not named here are ignored. An integer is written without a point.",
        "oneOf": [{"$ref": "#/$defs/ClientFrame"}, {"$ref": "#/$defs/ServerFrame"}],
        "$defs": {
            "ClientFrame": _union("What a client sends.", CLIENT_FRAMES),
            "ServerFrame": _union("What the server sends.", SERVER_FRAMES),
            **_components("#/$defs/{name}"),
        },
    }


def _union(description: str, members: Iterable[type]) -> Json:
    return {"description": description, "oneOf": [{"$ref": f"#/$defs/{member.__name__}"} for member in members]}


def _components(ref_template: str) -> dict[str, Json]:
    _, components = msgspec.json.schema_components([*CLIENT_FRAMES, *SERVER_FRAMES], ref_template=ref_template)
    return {name: _described(getattr(frames, name), schema) for name, schema in components.items()}


def _described(of: type[msgspec.Struct], schema: Json) -> Json:
    properties = {name: _property(of, name, inner) for name, inner in schema["properties"].items()}
    return {**schema, "description": meaning_of(of), "properties": properties}


def _property(of: type[msgspec.Struct], name: str, schema: Json) -> Json:
    if name == of.__struct_config__.tag_field:
        return {"const": tag_of(of)}
    if "anyOf" in schema:  # not all versions of msgspec put null last
        schema = {**schema, "anyOf": sorted(schema["anyOf"], key=NULL.__eq__)}
    meaning = meaning_of(of, name)
    return {"description": meaning, **schema} if meaning else schema


# AsyncAPI.


@cache
def asyncapi() -> Json:
    """Return the protocol as an AsyncAPI 3.0 document, in which the server speaks; the caller must not change it."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": frames.SUBPROTOCOL,
            "version": PROTOCOL_VERSION,
            "description": "Subscribe to agents, continue after any message, and say what agents are to do.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {"gateway": _server()},
        "channels": {"socket": _channel()},
        "operations": {**{tag_of(frame): _request(frame) for frame in CLIENT_FRAMES}, "stream": _stream()},
        "components": {
            "messages": {tag_of(frame): _message(frame) for frame in (*CLIENT_FRAMES, *SERVER_FRAMES)},
            "schemas": _components("#/components/schemas/{name}"),
            "securitySchemes": _SECURITY,
        },
        "x-error-codes": {
            code.value: {"retry": code.retry, "description": meaning_of(ErrorCode, code.name)} for code in ErrorCode
        },
        "x-close-codes": {
            str(code.value): {
                "name": code.name.lower(),
                "come_back": code.come_back,
                "description": meaning_of(CloseCode, code.name),
            }
            for code in CloseCode
        },
    }


_SECURITY: Final[Json] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "In the Authorization header of the handshake."},
    "hello": {"type": "apiKey", "in": "password", "description": "As `token` of the frame `hello`."},
    "subprotocol": {
        "type": "httpApiKey",
        "in": "header",
        "name": "Sec-WebSocket-Protocol",
        "description": "Offered as the subprotocol `commitcast.bearer.TOKEN` beside the protocol's; never echoed.",
    },
}


def _server() -> Json:
    address = {"default": "127.0.0.1:8765", "description": "HOST:PORT, as it is configured on the server."}
    return {
        "host": "{address}",
        "protocol": "ws",
        "protocolVersion": "13",
        "description": "A token in one of three places. Without one a server is read-only and on loopback.",
        "variables": {"address": address},
        "security": [_ref("components", "securitySchemes", name) for name in _SECURITY],
    }


def _channel() -> Json:
    subprotocol = {
        "type": "string",
        "description": f"`{frames.SUBPROTOCOL}`, and `commitcast.bearer.TOKEN` if the token is not given elsewhere.",
    }
    authorization = {"type": "string", "description": "`Bearer TOKEN`."}
    headers = {"Sec-WebSocket-Protocol": subprotocol, "Authorization": authorization}
    return {
        "address": PATH,
        "description": "One JSON object a text frame, told apart by its key `type`.",
        "messages": {
            tag_of(frame): _ref("components", "messages", tag_of(frame)) for frame in (*CLIENT_FRAMES, *SERVER_FRAMES)
        },
        "bindings": {
            "ws": {"method": "GET", "headers": {"type": "object", "properties": headers}, "bindingVersion": "0.1.0"}
        },
    }


def _ref(*path: str) -> Json:
    return {"$ref": "/".join(("#", *path))}


def _in_channel(members: Iterable[type[msgspec.Struct]]) -> Json:
    messages = [_ref("channels", "socket", "messages", tag_of(frame)) for frame in members]
    return {"channel": _ref("channels", "socket"), "messages": messages}


def _request(frame: type[msgspec.Struct]) -> Json:
    request = {"action": "receive", "summary": meaning_of(frame), **_in_channel([frame])}
    reply = REPLIES[frame]
    return request if reply is None else {**request, "reply": _in_channel([reply, frames.Error])}


def _stream() -> Json:
    unasked = [frame for frame in SERVER_FRAMES if frame not in REPLIES.values()]
    return {"action": "send", "summary": "What the server sends unasked, or after a reply.", **_in_channel(unasked)}


def _message(frame: type[msgspec.Struct]) -> Json:
    message = {
        "name": tag_of(frame),
        "title": frame.__name__,
        "summary": meaning_of(frame),
        "payload": _ref("components", "schemas", frame.__name__),
    }
    return {**message, "correlationId": {"location": "$message.payload#/id"}} if _has_id(frame) else message


def _has_id(frame: type[msgspec.Struct]) -> bool:
    return "id" in frame.__struct_fields__
