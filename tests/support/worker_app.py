"""A web app with a runtime of its own in each worker, on the file that the variable `AGENTS_DB` names."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from commitcast.actors import AgentRuntime
from commitcast.gateway import asgi


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with AgentRuntime(os.environ["AGENTS_DB"], listen="asgi") as runtime:
        app.state.runtime, app.state.gateway = runtime, runtime.gateway
        yield


def gateway() -> Any:
    """Return what serves the mounted app, None before the start."""
    return getattr(app.state, "gateway", None)


async def say(request: Request) -> JSONResponse:
    """Have a new agent say each word of the body; answer with what was acknowledged."""
    agent = await app.state.runtime.alaunch()
    await agent.start()
    said = {}
    for word in (await request.json())["words"]:
        message = await agent.aemit(word)
        said[message.sequence] = word
    await agent.complete()
    return JSONResponse({"worker": os.getpid(), "agent": agent.id, "said": said})


app: Starlette = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/say", say, methods=["POST"]),
        Mount("/agents", asgi.app(gateway)),
    ],
)
