"""How models speak: agents that say a token about fifty times a second each, in one event loop, and what that costs."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

RATE: Final = 50.0
"""Tokens of one agent in a second, as of a fast model."""
LOOK_S: Final = 0.01
"""How often the delay of the loop is taken."""
TOKEN: Final = "token"


def work(host_us: float) -> None:
    """Be busy, as a library is that parses what the model sends."""
    end = time.perf_counter() + host_us / 1e6
    while time.perf_counter() < end:
        pass


def dues_s(agent: int, tokens: int) -> Iterator[float]:
    """Yield after how many seconds an agent is to say each of its tokens; a seed decides, the same for every way."""
    seeded = random.Random(agent)
    due_s = seeded.random() / RATE
    for _ in range(tokens):
        yield due_s
        due_s += seeded.uniform(0.5, 1.5) / RATE


async def moments(agent: int, tokens: int, host_us: float) -> AsyncIterator[float]:
    """Yield when an agent says each of its tokens, of `time.monotonic`, after some work."""
    began = time.monotonic()
    for due_s in dues_s(agent, tokens):
        if (delay_s := began + due_s - time.monotonic()) > 0:
            await asyncio.sleep(delay_s)
        work(host_us)
        yield time.monotonic()


class Load:
    """The cost of a load to this process, while the block runs. An asynchronous context manager."""

    def __init__(self) -> None:
        self.lags_s: list[float] = []
        """From saying a token to having it acknowledged or heard."""
        self.beside: int | None = None
        """Another process whose CPU time counts too."""
        self._delays_s: list[float] = []

    async def __aenter__(self) -> "Load":
        self._looking = asyncio.create_task(self._look())
        self._began, self._cpu_began = time.monotonic(), self._cpu()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.took_s, self.cpu_s = time.monotonic() - self._began, self._cpu() - self._cpu_began
        self._looking.cancel()

    def _cpu(self) -> float:
        return time.process_time() + (0.0 if self.beside is None else cpu_of(self.beside))

    async def _look(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(LOOK_S)
            self._delays_s.append(time.monotonic() - before - LOOK_S)

    def report(self) -> dict[str, Any]:
        """Return what it cost, for the parent."""
        return {
            "lags_ms": percentiles_ms(self.lags_s),
            "loop_ms": percentiles_ms(self._delays_s),
            "took_s": self.took_s,
            "cpu_s": self.cpu_s,
            "timed": len(self.lags_s),
        }


def cpu_of(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentiles_ms(durations_s: list[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile, in milliseconds; zeros of fewer than two."""
    if len(durations_s) < 2:
        return 0.0, 0.0
    cuts = quantiles(durations_s, n=100)
    return 1_000 * cuts[49], 1_000 * cuts[98]
