"""The scenarios of what is sent: replay and fanout."""

import time
from collections.abc import Sequence
from itertools import count
from typing import Final

from commitcast.actors.bench.chain import LISTEN
from commitcast.actors.bench.child import Child
from commitcast.actors.bench.crowd import allow_files
from commitcast.actors.bench.load import Emitted, contents, emit_one_by_one
from commitcast.actors.bench.results import Sample
from commitcast.actors.bench.storing import build_file
from commitcast.actors.bench.stream import agent_name, content_of
from commitcast.actors.bench.workshop import Workshop
from commitcast.actors.handle import AgentHandle
from commitcast.actors.runtime import AgentRuntime

HISTORY: Final = "history"
HISTORY_OF_CEILING: Final = 0.5
TURNS_BEFORE: Final = 16
"""How many messages each appending agent has said before the replay begins."""
FANOUT_MESSAGES: Final = 200


def measure_replay(shop: Workshop, agents: int) -> Sample:
    """Give one agent's stored messages to a subscriber, while so many others append (0: none)."""
    messages = shop.messages(of_ceiling=HISTORY_OF_CEILING)
    path = shop.kept("replay", lambda path: build_file(shop, path, [HISTORY], messages))
    with AgentRuntime(path, listen=LISTEN) as runtime:
        order = {"url": runtime.url, "agent": HISTORY, "messages": messages, "wait": True}
        with Child("subscriber", "the subscriber", **order) as subscriber:
            handles = runtime.launch_many(agents)
            subscriber.hear()
            if handles:
                _append_during(subscriber, handles)
            else:
                subscriber.order(go=True)
            report = subscriber.hear()
            runtime.stop()
            subscriber.hear()
    per_s = messages / ((report["done"] - report["began"]) / 1e9)
    return Sample(messages_per_s=per_s, of_chain=None if shop.chain_per_s is None else per_s / shop.chain_per_s)


def _append_during(subscriber: Child, handles: Sequence[AgentHandle]) -> None:
    emitted = Emitted([])
    for sequence in count(1):
        for handle in handles:
            emitted.add(handle.emit(content_of(handle.id, sequence)), handle.id, sequence)
        emitted.check_done()
        if sequence == TURNS_BEFORE:
            subscriber.order(go=True)
        if subscriber.has_reported:
            break
    emitted.check_all()


def measure_fanout(shop: Workshop, subscribers: int) -> Sample:
    """Emit to one agent with many subscribers; then let a bare server send as many frames of the same size.

    The bare server sends each frame that the product sent on average, so that what is compared is the sending, and
    the product wins nothing by having put several messages into one frame.
    """
    messages = shop.limited(FANOUT_MESSAGES)
    allow_files(subscribers)
    agent = agent_name(0)
    with shop.fresh() as path, AgentRuntime(path, listen=LISTEN) as runtime:
        handle = runtime.launch(id=agent)
        with Child(
            "crowd", "the crowd", url=runtime.url, agent=agent, subscribers=subscribers, count=messages
        ) as crowd:
            crowd.hear()
            texts = contents(handle, messages)
            began = time.perf_counter_ns()
            emit_one_by_one(handle, texts, [])
            report = crowd.hear()
    took_ns = report["done"] - began
    frames = max(1, round(report["frames"] / subscribers))
    bare_ns = _measure_bare(subscribers, frames, report["bytes"] // report["frames"])
    return Sample(messages_per_s=messages * subscribers / (took_ns / 1e9), of_bare=bare_ns / took_ns)


def _measure_bare(subscribers: int, frames: int, size: int) -> int:
    with Child("bare_server", "the bare server", subscribers=subscribers) as server:
        url = server.hear()["url"]
        with Child("crowd", "the crowd", url=url, agent=None, subscribers=subscribers, count=frames) as crowd:
            crowd.hear()
            server.order(frames=frames, bytes=size)
            began: int = server.hear()["began"]
            done: int = crowd.hear()["done"]
    return done - began
