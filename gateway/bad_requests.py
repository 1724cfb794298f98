"""What is answered to a request that is none: in JSON, with the headers that every answer has.

The library that parses requests answers a line that is too long with a text of its own, and hangs up on everything else
that it cannot read. Both go through two methods of its protocol, which are replaced here; nothing else of it is used.
"""

from http import HTTPStatus
from typing import Final

from websockets.datastructures import Headers
from websockets.exceptions import InvalidMessage
from websockets.http11 import Response
from websockets.server import ServerProtocol

from commitcast.gateway.http import error_response

_MESSAGES: Final = {
    HTTPStatus.REQUEST_URI_TOO_LONG: "the request line is too long: 8 KiB at most",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "there are too many headers, or one is longer than 8 KiB",
}
_UNREADABLE: Final = "this is no request that can be answered here: send GET or HEAD over HTTP/1.1, without a body"


def answer_bad_requests(protocol: ServerProtocol) -> None:
    """Have a connection's protocol answer what it would hang up on."""
    library_rejects, send_eof = protocol.reject, protocol.send_eof

    def reject(status: int, text: str) -> Response:
        message = _MESSAGES.get(HTTPStatus(status))
        return library_rejects(status, text) if message is None else _response(HTTPStatus(status), message)

    def answer_and_send_eof() -> None:
        has_left = protocol.reader.eof  # and hears nothing
        if isinstance(protocol.handshake_exc, InvalidMessage) and not has_left:
            protocol.writes.append(_response(HTTPStatus.BAD_REQUEST, _UNREADABLE).serialize())
        send_eof()

    protocol.reject = reject  # type: ignore[method-assign]
    protocol.send_eof = answer_and_send_eof  # type: ignore[method-assign]


def _response(status: HTTPStatus, message: str) -> Response:
    answered = error_response(status, "bad_request", message)
    return Response(status.value, status.phrase, Headers({**answered.headers, "Connection": "close"}), answered.body)
