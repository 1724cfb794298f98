"""Which path is answered with what, and for whom. On the gateway's loop; what reads the store goes to a reader thread.

The page and its files, `/healthz`, `/readyz` and the protocol's description are for everybody who gets this far; they
hold nothing of any agent. Everything else needs the token's right.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from importlib import resources
from typing import Any, Final, TypeVar

from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.access.auth import Grant, Operation, TokenError
from commitcast.gateway.server.gateway import GatewayCore
from commitcast.gateway.server.http import reads
from commitcast.gateway.server.http.request import (
    HttpRequest,
    HttpResponse,
    asset_response,
    error_response,
    json_response,
    respond,
)
from commitcast.gateway.server.metrics import CONTENT_TYPE, exposition
from commitcast.gateway.server.operations import refusal_of
from commitcast.gateway.web import asset
from commitcast.persistence.errors import CommitcastError, StoreError, StoreReadTimeoutError
from commitcast.persistence.patience import read_within

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")

READ_TIMEOUT_S: Final = 4.0
"""Who asks gets an answer before the 5 seconds after which many a proxy or probe gives up."""

_STATUS_OF: Final = {
    "not_found": HTTPStatus.NOT_FOUND,
    "forbidden": HTTPStatus.FORBIDDEN,
    "bad_request": HTTPStatus.BAD_REQUEST,
    "ahead": HTTPStatus.CONFLICT,
    "stale_epoch": HTTPStatus.CONFLICT,
    "conflict": HTTPStatus.CONFLICT,
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}


async def answer(core: GatewayCore, request: HttpRequest) -> HttpResponse:
    """Answer a GET whose Host and Origin were checked, in the time that there is for that."""
    try:
        async with asyncio.timeout(core.limits.answer_timeout_s):
            return await _answer_or_refuse(core, request)
    except TimeoutError:  # another program has the file, say
        message = "the store did not answer in time: try again"
        return error_response(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message, Retry_After="2")


async def _answer_or_refuse(core: GatewayCore, request: HttpRequest) -> HttpResponse:
    try:
        public = await _public(core, request)
        if public is not None:
            return public
        grant = core.grant_of(request.token, request.address)
        if grant is None:
            raise TokenError("a token is needed: send Authorization: Bearer TOKEN")
        return await _answer(core, grant, request)
    except TokenError as error:
        return _not_admitted(error)
    except CommitcastError as error:
        refusal = refusal_of(error)
        status = _STATUS_OF.get(refusal.code.value, HTTPStatus.INTERNAL_SERVER_ERROR)
        return error_response(status, refusal.code.value, refusal.message)
    except Exception:  # the last word on a request, as in the connection loop
        logger.exception("a request failed")
        message = "the server could not do this, and its log says why"
        return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", message)


def _not_admitted(error: TokenError) -> HttpResponse:
    code, message = error.error_code, str(error)
    match code:
        case ErrorCode.FORBIDDEN:
            return error_response(HTTPStatus.FORBIDDEN, code, message)
        case ErrorCode.RATE_LIMITED:
            return error_response(HTTPStatus.TOO_MANY_REQUESTS, code, message, Retry_After="60")
        case _:
            return error_response(HTTPStatus.UNAUTHORIZED, code, message, WWW_Authenticate="Bearer")


async def _public(core: GatewayCore, request: HttpRequest) -> HttpResponse | None:
    if file := asset(request.path):
        return asset_response(file, request.host)
    match request.path:
        case "/healthz":
            return json_response({"status": "ok"})
        case "/readyz":
            return await _readiness(core)
        case "/asyncapi.json":
            return respond("application/json; charset=utf-8", _protocol_description())
        case _:
            return None


@cache
def _protocol_description() -> bytes:
    """Return the AsyncAPI document, which `make protocol` makes from the frame types."""
    return resources.files("commitcast.gateway.protocol").joinpath("asyncapi.json").read_bytes()


async def _readiness(core: GatewayCore) -> HttpResponse:
    status = "draining" if core.is_draining else "ready"
    try:
        if core.pump.store.waits_for is not None:
            status = "waiting"
        else:
            await _read_in_time(core, core.pump.store.position)
    except StoreError:
        status = "unavailable"
    code = HTTPStatus.OK if status == "ready" else HTTPStatus.SERVICE_UNAVAILABLE
    return json_response({"status": status}, code)


async def _read_in_time(core: GatewayCore, function: Callable[..., T], *arguments: Any) -> T:
    """Read the store on a reader thread, or say in time that it cannot be read.

    Raises:
        StoreReadTimeoutError: another program, or a commit that waits for one, holds it.
    """

    def read() -> T:
        with read_within(READ_TIMEOUT_S):
            return function(*arguments)

    try:
        return await asyncio.wait_for(core.pump.read(read), READ_TIMEOUT_S)
    except TimeoutError as error:  # every reader thread waits
        raise StoreReadTimeoutError from error


async def _answer(core: GatewayCore, grant: Grant, request: HttpRequest) -> HttpResponse:
    if request.path == "/metrics":
        if not grant.allows_everywhere(Operation.ADMIN):
            return error_response(HTTPStatus.FORBIDDEN, "forbidden", "this needs the right to admin everything")
        return respond(CONTENT_TYPE, exposition(core.collectors))
    found = await _read_in_time(core, reads.read, core.pump.store, grant, request.path, request.query)
    if found is None:
        message = f"there is nothing at {request.path:.200}: see /v1/agents"
        return error_response(HTTPStatus.NOT_FOUND, "not_found", message)
    return json_response(found)
