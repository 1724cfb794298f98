"""How long a store's commits take, and how much is in each. The writer's thread commits; any may read."""

import time
from collections.abc import Sequence
from typing import Final

from commitcast.gateway.server.metrics import Histogram
from commitcast.persistence.errors import StoreUnavailableError
from commitcast.persistence.store import Store
from commitcast.persistence.writes import AgentWrites, Outcome

BATCH_SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)
"""Bounds for the writes of one transaction, which has 4,096 at most."""


class CommitMeter:
    """Times commits."""

    def __init__(self) -> None:
        self.seconds = Histogram()
        self.sizes = Histogram(BATCH_SIZES)
        self.refusals = 0
        """Commits that were refused for the moment and are tried again."""

    def commit(self, store: Store, work: Sequence[AgentWrites]) -> list[Outcome]:
        """Commit, and count what that took if it succeeded. See `Store.commit`."""
        began = time.perf_counter()
        try:
            outcomes = store.commit(work)
        except StoreUnavailableError:
            self.refusals += 1
            raise
        self.seconds.observe(time.perf_counter() - began)
        self.sizes.observe(sum(len(each.writes) for each in work))
        return outcomes
