"""The scenarios of the full chain: closed, pipelined and mixed."""

import math
import time
from typing import Final

from chain import running_chain
from harness import STANDARD_AGENTS, Harness
from load import Pipeline, contents, emit_closed, emit_one_by_one, on_a_thread
from mixed import LIFE_MESSAGES, emit_mixed, lives
from results import Sample, percentile_ms

EXPECTED_OF_CEILING: Final = 0.5
MOST_TIMES_NAIVE: Final = 50.0
"""How fast the chain is guessed to be, only to choose how many messages a round has."""


def measure_pipelined(harness: Harness, agents: int) -> Sample:
    """Emit as fast as the runtime takes it, over the agents in turn."""
    each = math.ceil(harness.messages(of_ceiling=EXPECTED_OF_CEILING) / agents)
    acks_ns: list[int] = []
    with harness.fresh() as path, running_chain(path, harness.options, agents, each * agents) as chain:
        pipeline = Pipeline(chain.handles, each, acks_ns)
        began = time.perf_counter_ns()
        on_a_thread(pipeline.emit)
        done = chain.wait_for_receiver()
        pipeline.check_all()
    sample = _sample(harness, agents, each * agents, done - began, acks_ns)
    if agents == STANDARD_AGENTS:
        harness.chain_per_s = sample.messages_per_s
    return sample


def measure_closed(harness: Harness, agents: int) -> Sample:
    """Let each agent emit its next message when the one before is acknowledged."""
    messages = harness.messages(times_naive=min(agents, MOST_TIMES_NAIVE) * (0.5 if agents > 1 else 0.75))
    each = math.ceil(messages / agents)
    acks_ns: list[int] = []
    with harness.fresh() as path, running_chain(path, harness.options, agents, each * agents) as chain:
        texts = contents(chain.handles[0], each) if agents == 1 else []
        began = time.perf_counter_ns()
        if agents == 1:
            on_a_thread(lambda: emit_one_by_one(chain.handles[0], texts, acks_ns))
        else:
            on_a_thread(lambda: emit_closed(chain.handles, each, acks_ns))
        done = chain.wait_for_receiver()
    return _sample(harness, agents, each * agents, done - began, acks_ns, closed=True)


def measure_mixed(harness: Harness, agents: int) -> Sample:
    """Emit over agents that are started and complete, and are followed by others."""
    messages = harness.messages(of_ceiling=EXPECTED_OF_CEILING / 2)
    mean = min(LIFE_MESSAGES, max(1, messages // (2 * agents)))
    lengths = lives(max(agents + 1, messages // mean), mean)
    acks_ns: list[int] = []
    with (
        harness.fresh() as path,
        running_chain(path, harness.options, agents, sum(lengths), completed=len(lengths)) as chain,
    ):
        began = time.perf_counter_ns()
        emit_mixed(chain, lengths, acks_ns)
        done = chain.wait_for_receiver()
    return _sample(harness, agents, sum(lengths), done - began, acks_ns)


def _sample(
    harness: Harness, agents: int, messages: int, took_ns: int, acks_ns: list[int], *, closed: bool = False
) -> Sample:
    yardstick = harness.yardsticks[agents]
    per_s = messages / (took_ns / 1e9)
    return Sample(
        messages_per_s=per_s,
        acks_ns=acks_ns,
        times_naive=per_s / yardstick.naive_per_s,
        of_ceiling=per_s / yardstick.ceiling_per_s,
        ack_of_commit=percentile_ms(acks_ns, 0.5) / yardstick.commit_p50_ms if closed else None,
    )
