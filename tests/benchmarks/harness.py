"""The environment of a measurement: the folder of its files, its size in a round, and the baselines of that round."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

from bare_sqlite import CEILING_ROWS, BareWriter
from benchmark_errors import BenchmarkError
from commitcast.persistence.sqlite.journal import DELETE
from results import Yardstick, percentile_ms
from stream_check import agent_name, content_of

NAIVE_S: Final = 0.5
NAIVE_COMMITS: Final = 2_000
"""How long the naive yardstick is measured in a round, and how many commits it makes at most."""
CEILING_BATCHES: Final = 32
ROUND_S: Final = 1.5
"""What a scenario is scaled to take in a round."""
STANDARD_AGENTS: Final = 256
"""The size whose yardsticks are the main ones, and whose pipelined chain others are compared with."""
STANDARD_ROWS: Final = 10_000_000

Advance = Callable[[int, int], object]
"""Takes how much of something long is done, and how much there is of it."""


class Harness:
    """The environment that the scenarios share."""

    def __init__(
        self,
        folder: Path,
        *,
        messages: int | None = None,
        rows: int = STANDARD_ROWS,
        journal_mode: str = DELETE,
        server: str | None = None,
        advance: Advance = lambda done, of: None,
    ) -> None:
        """Make a harness.

        Args:
            folder: for the files; the caller removes it.
            messages: of a scenario in a round; None scales each to about `ROUND_S`.
            rows: of the larger file of `growth`.
            journal_mode: of the files of what is measured; bare SQLite stays in DELETE mode.
            server: the form of the runtimes that are measured; None is the product's own choice.
            advance: is called while a large file is made, with the rows that are done and those that there will be.
        """
        self.folder = folder
        self.rows = rows
        self.journal_mode = journal_mode
        self.server = server
        self.advance = advance
        self.yardsticks: dict[int, Yardstick] = {}
        """Of this round, by number of agents."""
        self.main_agents = STANDARD_AGENTS
        self.chain_per_s: float | None = None
        """Messages per second of the pipelined chain with `STANDARD_AGENTS` in this round."""
        self._messages = messages
        self._scale: Yardstick | None = None
        self._numbers = count(1)
        self._kept: dict[str, Path] = {}

    @property
    def options(self) -> dict[str, Any]:
        """Of each runtime that is measured."""
        return {"journal_mode": self.journal_mode, "server": self.server}

    @property
    def main(self) -> Yardstick:
        """The yardsticks that scenarios without a number of agents are compared with."""
        return self.yardsticks[self.main_agents]

    def messages(self, *, times_naive: float = 0.0, of_ceiling: float = 0.0) -> int:
        """Return how many messages a scenario has in a round, given how fast it is expected to be."""
        if self._messages is not None:
            return self._messages
        scale = self._scale or self.main
        return max(1, int(ROUND_S * (times_naive * scale.naive_per_s + of_ceiling * scale.ceiling_per_s)))

    def limited(self, standard: int) -> int:
        """Return a standard number of messages, or fewer if fewer were asked for."""
        return standard if self._messages is None else min(standard, self._messages)

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """Give the path of a new file, which is removed afterwards."""
        home = self.folder / f"{next(self._numbers):05d}"
        home.mkdir()
        try:
            yield home / "bench.db"
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def kept(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return the path of a file that all rounds share; `make` makes it the first time."""
        if name not in self._kept:
            path = self.folder / f"{name}.db"
            make(path)
            self._kept[name] = path
        return self._kept[name]

    def needs(self, size: int) -> None:
        """Make sure that there is room for that many bytes.

        Raises:
            BenchmarkError: there is not.
        """
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise BenchmarkError(
                f"{size / 1e9:.1f} GB are needed in {self.folder} and {free / 1e9:.1f} are free: use another --folder"
            )

    def measure_yardstick(self, agents: int) -> None:
        """Measure naive and ceiling with that many agents in turn, for this round."""
        names = [agent_name(index) for index in range(agents)]
        with self.fresh() as path, BareWriter(path, names, content_of) as writer:
            durations = writer.commit_each(writer.rows(self.limited(NAIVE_COMMITS)), NAIVE_S)
        with self.fresh() as path, BareWriter(path, names, content_of) as writer:
            rows = writer.rows(self.limited(CEILING_ROWS * CEILING_BATCHES))
            seconds = writer.commit_batches(rows)
        self.yardsticks[agents] = Yardstick(
            naive_per_s=len(durations) / (sum(durations) / 1e9),
            ceiling_per_s=len(rows) / seconds,
            commit_p50_ms=percentile_ms(durations, 0.5),
        )
        if self._scale is None and agents == self.main_agents:
            self._scale = self.main
