"""Further connections to the server, for an event loop of the host: each carries what its two ends agree on."""

import asyncio

from commitcast.persistence.errors import ServerLostError
from commitcast.persistence.remote.failures import error_of
from commitcast.persistence.remote.frames import (
    PROTOCOL,
    TUNNEL,
    Deframer,
    Frame,
    Hello,
    Refused,
    Welcome,
    pack,
    unpack,
)
from commitcast.persistence.remote.link import check_same_user
from commitcast.persistence.remote.store import RemoteStore


async def open_stream(store: RemoteStore) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect once more to the server of an open store, on the running loop.

    Raises:
        OSError: the server is gone.
        CommitcastError: it refuses.
    """
    if not store.address:
        raise ServerLostError(store.name)
    reader, writer = await asyncio.open_unix_connection(store.address)
    try:
        check_same_user(writer.get_extra_info("socket"))
        writer.write(pack(Hello(PROTOCOL, TUNNEL, session=store.session)))
        answer = await _first_frame(reader)
    except BaseException:  # Ctrl-C too: nothing stays open
        writer.close()
        raise
    if isinstance(answer, Welcome):
        return reader, writer
    writer.close()
    if isinstance(answer, Refused) and answer.failure is not None:
        raise error_of(answer.failure)
    raise ServerLostError(store.name)


async def _first_frame(reader: asyncio.StreamReader) -> Frame | None:
    deframer = Deframer()
    while data := await reader.read(deframer.missing_bytes):
        for payload in deframer.feed(memoryview(data)):
            return unpack(payload)
    return None
