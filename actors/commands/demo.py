"""`commitcast demo`: three agents, one server, and a subscriber that is disconnected and misses no message.

Database, sockets and the loss of the connection are real. Needs no API key and no network, and ends by itself.
"""

import asyncio
import random
import tempfile
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from commitcast.actors.commands import listening, options
from commitcast.actors.commands.output import counted, note, say
from commitcast.actors.commands.stopping import EXIT_CODES, Stopping, stopping_on_signals
from commitcast.actors.handle import AgentHandle
from commitcast.actors.runtime import AgentRuntime
from commitcast.actors.sources.context import AgentContext
from commitcast.actors.sources.draft import Draft
from commitcast.gateway.client.asyncio import subscribe
from commitcast.persistence.sqlite.verify import verify

PACES_S: Final = {"tortoise": 0.2, "walker": 0.09, "hare": 0.04}
"""Seconds between tokens: all three end within ten seconds."""
CUT_AFTER: Final = 60
"""The sequence after which the hare's subscriber is cut off."""
AWAY_S: Final = 1.5
_COLOURS: Final = {"tortoise": "green", "walker": "cyan", "hare": "yellow"}
_LINE: Final = 72


class _Seen(msgspec.Struct):
    """What one subscriber was given."""

    sequences: list[int] = []
    story: str = ""


def demo(
    listen: listening.Listen = "127.0.0.1:0",
    db: Annotated[
        Path | None,
        typer.Option(
            "--db",
            help="Keep the database in this file. Without it the file is temporary.",
            callback=options.in_folder,
        ),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.1, max=100, help="Speed factor: 2 is twice as fast.")] = 1.0,
) -> None:
    """Show three agents, streamed live; one subscriber loses its connection and resumes without a gap.

    Takes about ten seconds. Needs no API key and no network.
    """
    listening.raise_file_limit(listens=True)
    with tempfile.TemporaryDirectory(prefix="commitcast-demo-") as folder:
        path = db or Path(folder) / "demo.db"
        runtime = AgentRuntime(path, listen=listening.address("127.0.0.1:0" if listen == "off" else listen))
        with stopping_on_signals() as stopping, runtime:
            note(f"database {path}")
            note(f"page     http://{runtime.address}/")
            note(f"stream   {runtime.url}   (another terminal: commitcast tail '*' --url {runtime.address})")
            agents = _launch(runtime, speed)
            seen = {name: _Seen() for name in agents}
            asyncio.run(_watch(str(runtime.url), agents, seen, stopping, AWAY_S / speed))
            if stopping.signal is not None:
                raise typer.Exit(EXIT_CODES[stopping.signal])
            stored = {name: [message.sequence for message in agent.follow()] for name, agent in agents.items()}
        _print_account(path, seen, stored, kept=db is not None)
        raise typer.Exit(0 if all(seen[name].sequences == stored[name] for name in stored) else 1)


def _launch(runtime: AgentRuntime, speed: float) -> dict[str, AgentHandle]:
    texts = resources.files("commitcast.actors.commands").joinpath("demo_texts.txt").read_text("utf-8").split("\n---\n")
    suffix = f"-{random.SystemRandom().randrange(16**4):04x}"
    return {
        name: runtime.launch(
            _speaker(text.strip(), pace_s / speed), type="demo", prompt=f"Tell me about the {name}.", id=name + suffix
        )
        for (name, pace_s), text in zip(PACES_S.items(), texts, strict=True)
    }


def _speaker(text: str, pace_s: float) -> Callable[[AgentContext], Iterator[Draft]]:
    def speak(context: AgentContext) -> Iterator[Draft]:
        for word in text.split(" "):
            yield Draft(word + " ", metadata={"delta": True})
            if context.cancelled.wait(pace_s):
                return

    return speak


async def _watch(
    url: str, agents: dict[str, AgentHandle], seen: dict[str, _Seen], stopping: Stopping, away_s: float
) -> None:
    watching = [
        _watch_with_a_cut(url, agent, seen[name], away_s)
        if name == "hare"
        else _watch_one(url, name, agent.id, 0, seen[name])
        for name, agent in agents.items()
    ]
    waiting: list[asyncio.Future[Any]] = [asyncio.gather(*watching), asyncio.create_task(stopping.wait_async())]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for future in waiting:
        future.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def _watch_one(url: str, name: str, agent: str, after: int, seen: _Seen, until: int | None = None) -> int:
    """Print one agent's stream; return the cursor when it ends or `until` is reached."""
    async with subscribe(url, agent, after=after) as subscription:
        async for item in subscription:
            seen.sequences.append(item.sequence)
            if item.type == "assistant":
                seen.story += item.content
                if len(seen.story) > _LINE:
                    _print_line(name, item.sequence, seen)
            if until is not None and item.sequence >= until:
                await subscription.cut()
                break
        if seen.story and subscription.ending is not None:
            _print_line(name, subscription.cursor, seen)
        return subscription.cursor


async def _watch_with_a_cut(url: str, agent: AgentHandle, seen: _Seen, away_s: float) -> None:
    cursor = await _watch_one(url, "hare", agent.id, 0, seen, until=CUT_AFTER)
    _print_event(f"the hare's subscriber is disconnected after message {cursor}; the hare continues")
    await asyncio.sleep(away_s)
    head = (await agent.arecord()).head
    _print_event(f"it reconnects and resumes after {cursor}; {head} messages are stored by now")
    await _watch_one(url, "hare", agent.id, cursor, seen)


def _print_line(name: str, sequence: int, seen: _Seen) -> None:
    say(f"{name:<9} {sequence:>4}  {seen.story.strip()}", _COLOURS[name])
    seen.story = ""


def _print_event(text: str) -> None:
    say(f"{'':<9} {'':>4}  -- {text}", "bold")


def _print_account(path: Path, seen: dict[str, _Seen], stored: dict[str, list[int]], *, kept: bool) -> None:
    say("")
    say(f"{'agent':<9} {'in the database':>16} {'received':>9} {'missing':>8} {'repeated':>9}", "bold")
    for name, sequences in stored.items():
        received = seen[name].sequences
        missing, repeated = len(set(sequences) - set(received)), len(received) - len(set(received))
        say(f"{name:<9} {len(sequences):>16} {len(received):>9} {missing:>8} {repeated:>9}", _COLOURS[name])
    report = verify(path)
    say(f"verified: {counted(report.messages, 'message')}, {'sound' if report.is_sound else 'NOT sound'}", "bold")
    if kept:
        note(f"to see it again: commitcast serve --db {path}, then open its page")
