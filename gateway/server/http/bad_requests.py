"""What is answered to a request that cannot be answered: in JSON, with the headers that every answer has.

The library that parses requests refuses them with a text of its own, which quotes headers and so maybe a token, and
hangs up on what it cannot read. Both go through two methods of its protocol, which are replaced here; nothing else of
it is used.
"""

from http import HTTPStatus
from typing import Final

from websockets.datastructures import Headers
from websockets.exceptions import InvalidMessage
from websockets.http11 import Response
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from commitcast.gateway.protocol.frames import PATH
from commitcast.gateway.server.http.request import error_response
from commitcast.gateway.server.sockets.older_websockets import status_of

_REFUSALS: Final = {
    HTTPStatus.REQUEST_URI_TOO_LONG: ("bad_request", "the request line is too long: 8 KiB at most"),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
        "bad_request",
        "there are too many headers, or one is longer than 8 KiB",
    ),
    HTTPStatus.SERVICE_UNAVAILABLE: ("unavailable", "the server stops"),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("internal", "the server failed; its log says more"),
}
"""By status, what the library refuses for other reasons than a handshake that is wrong."""
_UNREADABLE: Final = (
    "bad_request",
    "this is no request that can be answered here: send GET or HEAD over HTTP/1.1, without a body",
)


def answer_bad_requests(protocol: ServerProtocol) -> None:
    """Have a connection's protocol answer what it would hang up on."""
    send_eof = protocol.send_eof

    def answer_and_send_eof() -> None:
        has_left = protocol.reader.eof  # and hears nothing
        error = protocol.handshake_exc
        if isinstance(error, InvalidMessage) and not has_left:
            status = status_of(error)
            protocol.writes.append(_response(status, *_REFUSALS.get(status, _UNREADABLE)).serialize())
        send_eof()

    protocol.reject = _reject  # type: ignore[method-assign, assignment]  # it names the second argument
    protocol.send_eof = answer_and_send_eof  # type: ignore[method-assign]


def _reject(status: StatusLike, _: str) -> Response:
    status = HTTPStatus(status)
    code, message = _REFUSALS.get(
        status, ("bad_request", f"this is not a WebSocket handshake at {PATH}: {status.phrase}")
    )
    return _response(status, code, message)


def _response(status: HTTPStatus, code: str, message: str) -> Response:
    answered = error_response(status, code, message)
    return Response(status.value, status.phrase, Headers({**answered.headers, "Connection": "close"}), answered.body)
