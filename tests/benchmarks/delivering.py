"""The scenarios of delivery: replay and fanout."""

import time
from collections.abc import Sequence
from itertools import count
from typing import Final

import msgspec

from benchmark_errors import BenchmarkError
from chain import FUTURE_TIMEOUT_S, LISTEN, check_message
from child import Child
from commitcast.actors.handle import AgentHandle
from commitcast.actors.runtime import AgentRuntime
from commitcast.gateway.hub.log import REST
from commitcast.gateway.server.metrics import Traffic
from harness import Harness
from light_client import allow_files
from load import Emitted, Pipeline, on_a_thread
from results import Sample
from storing import build_file
from stream_check import agent_name, content_of

HISTORY: Final = "history"
HISTORY_OF_CEILING: Final = 0.5
TURNS_BEFORE: Final = 16
"""How many messages each appending agent has emitted before the replay begins."""
SINGLE_FRAMES: Final = 40
"""How many messages are sent to everybody one by one: with the rest after each, that takes 1 to 2 seconds."""
FANOUT_MESSAGES: Final = 8_000
BARE_FRAMES: Final = 150
"""What the product, and the bare server, need 1 to 3 seconds for."""
LOOK_AGAIN_S: Final = 0.001
"""Between two looks at what the server has sent."""


def measure_replay(harness: Harness, agents: int) -> Sample:
    """Give one agent's stored messages to a subscriber, while that many others append (0: none)."""
    messages = harness.messages(of_ceiling=HISTORY_OF_CEILING)
    path = harness.kept("replay", lambda path: build_file(harness, path, [HISTORY], messages))
    with AgentRuntime(path, listen=LISTEN, **harness.options) as runtime:
        order = {"url": runtime.url, "agent": HISTORY, "messages": messages, "wait": True}
        with Child("receiver", "the receiver", **order) as subscriber:
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
    return Sample(messages_per_s=per_s, of_chain=None if harness.chain_per_s is None else per_s / harness.chain_per_s)


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


def measure_fanout(harness: Harness, subscribers: int) -> Sample:
    """Send to many subscribers of one agent, and compare with a bare `websockets` server and the same receiver, twice.

    * `of_bare`: messages a second, from the first `emit` until the last subscriber has the last one. The product's
      messages are emitted by one host thread as fast as the runtime takes them, and the product may put many into a
      frame; the bare server sends each as one shared frame by `broadcast`, as fast as it can.
    * `send_of_bare`: how many subscribers are sent to in a second of the server thread's CPU time. Both send frames of
      one message, and both rest after each frame. Of the product it counts all that the pump does (choosing, making
      the frame, sending); of the bare server only the calls of `broadcast`.
    """
    allow_files(subscribers)
    product = _fan_out(harness, subscribers)
    bare = _fan_out_bare(harness, subscribers)
    return Sample(
        messages_per_s=product.per_s,
        of_bare=product.per_s / bare.per_s,
        send_of_bare=bare.send_cpu_s / product.send_cpu_s,
    )


class _FanOut(msgspec.Struct, frozen=True):
    per_s: float
    """Messages delivered, over all subscribers."""
    send_cpu_s: float
    """CPU time of sending one frame to one subscriber."""


def _fan_out(harness: Harness, subscribers: int) -> _FanOut:
    return _FanOut(per_s=_fan_out_many(harness, subscribers), send_cpu_s=_fan_out_singly(harness, subscribers))


def _fan_out_many(harness: Harness, subscribers: int) -> float:
    many, agent = harness.limited(FANOUT_MESSAGES), agent_name(0)
    with harness.fresh() as path, AgentRuntime(path, listen=LISTEN, **harness.options) as runtime:
        handle = runtime.launch(id=agent)
        order = {"url": runtime.url, "agent": agent, "subscribers": subscribers, "targets": [many]}
        with Child("subscriber_pool", "the pool", **order) as pool:
            pool.hear()
            pipeline = Pipeline([handle], many, [])
            began = time.perf_counter_ns()
            on_a_thread(pipeline.emit)
            took_ns = pool.hear()["reached"] - began
            pipeline.check_all()
            pool.hear()
    per_s: float = many * subscribers / (took_ns / 1e9)
    return per_s


def _fan_out_singly(harness: Harness, subscribers: int) -> float:
    """In this process in any case, whose gateway can be asked for the time that its thread has used."""
    singles, agent = harness.limited(SINGLE_FRAMES), agent_name(0)
    options = {**harness.options, "server": "in_process"}
    with harness.fresh() as path, AgentRuntime(path, listen=LISTEN, **options) as runtime:
        handle = runtime.launch(id=agent)
        order = {"url": runtime.url, "agent": agent, "subscribers": subscribers, "targets": [singles]}
        with Child("subscriber_pool", "the pool", **order) as pool:
            pool.hear()
            send_cpu_s = _send_singly(runtime, handle, singles, subscribers)
            pool.hear()
            pool.hear()
    return send_cpu_s


def _send_singly(runtime: AgentRuntime, handle: AgentHandle, messages: int, subscribers: int) -> float:
    """Emit each message when the one before was sent to all; return the CPU time of one frame to one subscriber."""
    assert runtime.gateway is not None
    traffic: Traffic = runtime.gateway.core.traffic
    frames, cpu_s = traffic.frames, traffic.pumped_cpu_s
    for turn in range(1, messages + 1):
        check_message(handle.emit(content_of(handle.id, turn)), handle.id, turn)
        deadline = time.monotonic() + FUTURE_TIMEOUT_S
        while traffic.frames < frames + turn * subscribers:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"message {turn} was not sent to all subscribers in time")
            time.sleep(LOOK_AGAIN_S)
    return (traffic.pumped_cpu_s - cpu_s) / (traffic.frames - frames)


def _fan_out_bare(harness: Harness, subscribers: int) -> _FanOut:
    singles, many = harness.limited(SINGLE_FRAMES), harness.limited(BARE_FRAMES)
    with Child("bare_server", "the bare server", subscribers=subscribers) as server:
        order = {"agent": None, "subscribers": subscribers, "targets": [singles, singles + many]}
        with Child("subscriber_pool", "the pool", url=server.hear()["url"], **order) as pool:
            pool.hear()
            server.order(frames=singles, rest=REST)
            server.hear()
            send_cpu_s = server.hear()["cpu_s"] / (singles * subscribers)
            pool.hear()
            server.order(frames=many, rest=0)
            began: int = server.hear()["began"]
            took_ns = pool.hear()["reached"] - began
            pool.hear()
    return _FanOut(many * subscribers / (took_ns / 1e9), send_cpu_s)
