"""The routes of HTTP GET: which path is answered with what, and which right it needs.

The page and its files, `/healthz`, `/readyz` and the protocol's description need no token: they show nothing of any
agent. Everything else needs a right. Runs on the gateway's loop; reads of the store run on a reader thread.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from importlib import resources
from typing import Any, Final, TypeVar

from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.access.auth import Grant, Permission
from commitcast.gateway.server.errors import TokenError
from commitcast.gateway.server.gateway import Gateway
from commitcast.gateway.server.http import reads
from commitcast.gateway.server.http.request import (
    HttpRequest,
    HttpResponse,
    asset_response,
    error_response,
    json_response,
    refusal,
    respond,
)
from commitcast.gateway.server.metrics import CONTENT_TYPE, exposition
from commitcast.gateway.server.requests import refusal_of
from commitcast.gateway.web import asset
from commitcast.persistence.errors import CommitcastError, StoreError, StoreReadTimeoutError
from commitcast.persistence.read_timeout import read_within

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")

READ_TIMEOUT_S: Final = 4.0
"""Less than the 5 seconds after which many proxies and probes give up."""


async def answer(core: Gateway, request: HttpRequest) -> HttpResponse:
    """Answer a GET, with 503 after `Limits.answer_timeout_s`."""
    try:
        async with asyncio.timeout(core.limits.answer_timeout_s):
            return await _answer_or_refuse(core, request)
    except TimeoutError:  # for example, another program has locked the file
        message = "the store did not answer in time: try again"
        return error_response(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message, Retry_After="2")


async def _answer_or_refuse(core: Gateway, request: HttpRequest) -> HttpResponse:
    try:
        public = await _public(core, request)
        if public is not None:
            return public
        grant = await core.authenticator.grant_of(request.token, request.address)
        if grant is None:
            raise TokenError("a token is needed: send Authorization: Bearer TOKEN")
        return await _answer(core, grant, request)
    except CommitcastError as error:
        refused = refusal_of(error)
        return refusal(refused.code, refused.message)
    except Exception:  # of a request, as in the connection loop
        logger.exception("a request failed")
        return refusal(ErrorCode.INTERNAL, "the request failed; the server's log says why")


async def _public(core: Gateway, request: HttpRequest) -> HttpResponse | None:
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


async def _readiness(core: Gateway) -> HttpResponse:
    status = "draining" if core.is_draining else "ready"
    try:
        if core.reader.store.waits_for is not None:
            status = "waiting"
        else:
            await _read_in_time(core, core.reader.store.position)
    except StoreError:
        status = "unavailable"
    code = HTTPStatus.OK if status == "ready" else HTTPStatus.SERVICE_UNAVAILABLE
    return json_response({"status": status}, code)


async def _read_in_time(core: Gateway, function: Callable[..., T], *arguments: Any) -> T:
    """Read the store on a reader thread, for at most `READ_TIMEOUT_S`.

    Raises:
        StoreReadTimeoutError: another program has locked it, or a commit that waits for one.
    """

    def read() -> T:
        with read_within(READ_TIMEOUT_S):
            return function(*arguments)

    try:
        return await asyncio.wait_for(core.reader.read(read), READ_TIMEOUT_S)
    except TimeoutError as error:  # all reader threads are busy
        raise StoreReadTimeoutError from error


async def _answer(core: Gateway, grant: Grant, request: HttpRequest) -> HttpResponse:
    if request.path == "/metrics":
        if not grant.allows_everywhere(Permission.ADMIN):
            return refusal(ErrorCode.FORBIDDEN, "this needs the right `admin` on `*`: present a token that has it")
        for refresh in core.refreshing:
            await refresh()
        return respond(CONTENT_TYPE, exposition(core.collectors))
    body = await _read_in_time(core, reads.read, core.reader.store, grant, request, core.redactor)
    if body is None:
        return refusal(ErrorCode.NOT_FOUND, f"there is nothing at {request.path:.200}: see /v1/agents")
    return json_response(body)
