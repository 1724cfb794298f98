"""The fault scenarios: subscribers that stall, and a server that stops and restarts.

The server is a process of its own in both, so that its memory is its own, and so that it can be killed.
"""

import signal
import time
import urllib.request
from contextlib import ExitStack
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Final

from benchmark_errors import BenchmarkError
from chain import LISTEN
from child import Child, Report
from harness import Harness
from results import Sample
from stream_check import agent_name

STALLED_SHARE: Final = 10
"""One of this many subscribers stalls."""
STALLED_PER_S: Final = 10.0
"""Messages: each is sent to a thousand, with the rest that the gateway takes after it, before the next one comes."""
STALLED_BYTES: Final = 4_096
"""Of a message's content: a stalled connection is full after some thirty."""
STALLED_MESSAGES: Final = 600
"""A minute."""
STALLED_TURNS: Final = 6
"""How often those who stall come and go in that minute."""

RESTART_AGENTS: Final = 20
RESTART_PER_S: Final = 100.0
"""Messages, over all agents: to a hundred subscribers each."""
BEFORE_STOP_S: Final = 1.0
"""How long everybody listens before the server goes."""
STAY_S: Final = 3_600.0
"""In place of the time after which who stalls is dropped: that they stay is the harder case."""
MIB: Final = 2**20


def measure_stalled(harness: Harness, subscribers: int) -> Sample:
    """Let one subscriber in ten take nothing, and see what that costs the others and the server.

    The turns alternate: the live ones alone, then beside stalled ones, which connect for the turn, subscribe, never
    read again (see `subscriber_pool`), and disconnect. The latency is from `emit` to the receiver, of every message to
    every live subscriber. A turn's p99 is compared with that of the turn alone before it, and the median taken, so that
    a slow moment of the machine does not decide. The growth is from the end of the turn alone to the server's peak in
    the turn after it; the largest counts.

    Raises:
        BenchmarkError: those who were to stall have not, or something that was sent is wrong.
    """
    stalled = max(1, subscribers // STALLED_SHARE)
    live = max(1, subscribers - stalled)
    messages = harness.limited(STALLED_MESSAGES)
    turns = STALLED_TURNS if messages == STALLED_MESSAGES else 1
    each = max(1, messages // (2 * turns))
    spoken: list[Report] = []
    with harness.fresh() as path, _server(path, LISTEN, 1, subscribers) as server:
        at = server.hear()
        order = {"url": at["url"], "agent": agent_name(0), "content_bytes": STALLED_BYTES}
        targets = [each * turn for turn in range(1, 2 * turns + 1)]
        with Child("subscriber_pool", "the pool", **order, subscribers=live, targets=targets) as pool:
            pool.hear()
            for _ in range(turns):
                spoken.append(_speak(server, pool, each, len(spoken)))
                with Child(
                    "subscriber_pool", "the stalled pool", **order, subscribers=stalled, targets=[], stall=True
                ) as stalling:
                    stalling.hear()
                    spoken.append(_speak(server, pool, each, len(spoken)))
                    _check_stalled(at["address"], stalled)
            p99_ms = pool.hear()["p99_ms"]
    alone, beside = ([p99_ms[str(turn)] for turn in range(first, 2 * turns, 2)] for first in (0, 1))
    grown = (
        after["resident_most"] - before["resident"] for before, after in zip(spoken[::2], spoken[1::2], strict=True)
    )
    return Sample(
        live_p99_ms=median(beside),
        p99_of_alone=median(map(truediv, beside, alone)),
        grown_mib=max(grown) / MIB,
    )


def _server(path: Path, listen: str, agents: int, subscribers: int) -> Child:
    order = {"path": str(path), "listen": listen, "agents": agents, "subscribers": subscribers}
    return Child("load_server", "the server", **order, stall_timeout_s=STAY_S)


def _speak(server: Child, pool: Child, messages: int, turn: int) -> Report:
    """Have that many messages emitted; return what the server reports once the live ones have them all."""
    server.order(messages=messages, per_s=STALLED_PER_S, content_bytes=STALLED_BYTES, label=str(turn))
    spoken = server.hear()
    pool.hear()
    return spoken


def _check_stalled(address: str, expected: int) -> None:
    """Ask the server how many connections are paused."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        metrics = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines())
    paused = float(metrics["commitcast_connections_paused"])
    if paused != expected:
        raise BenchmarkError(f"{expected} were to stall and {paused:g} have: increase --messages")


def measure_restart(harness: Harness, connections: int) -> Sample:
    """Stop a server with many subscribers, once in order and once by SIGKILL, and start it again at once.

    Measured from the signal until every subscriber has caught up again, the stop and the start of the process in it.
    The agents speak until the signal, and from the first moment after the start; nobody may miss or repeat anything.
    """
    agents = min(RESTART_AGENTS, connections)
    back_s = {}
    with harness.fresh() as path, ExitStack() as stack:

        def start(listen: str) -> tuple[Child, Report]:
            server = stack.enter_context(_server(path, listen, agents, connections))
            at = server.hear()
            server.order(per_s=RESTART_PER_S)
            return server, at

        server, at = start(LISTEN)
        order = {"url": at["url"], "agents": agents, "subscribers": connections}
        pool = stack.enter_context(Child("reconnecting_pool", "the pool", **order))
        pool.hear()
        for number in (signal.SIGTERM, signal.SIGKILL):
            time.sleep(BEFORE_STOP_S)
            began = time.perf_counter_ns()
            server.end(number)
            server, _ = start(at["address"])
            back_s[number] = (pool.hear()["back"] - began) / 1e9
        server.order(per_s=RESTART_PER_S, messages=0)
        pool.order(heads=server.hear()["heads"])
        pool.hear()
    return Sample(back_after_term_s=back_s[signal.SIGTERM], back_after_kill_s=back_s[signal.SIGKILL])
