"""Measures the trip of one message: which functions of commitcast run from `emit` until the gateway rests again.

python tests/tools/trip.py [--list] [--trips N]

Runs against the commitcast that is installed in the environment of its interpreter, through the public API alone, so
that older releases can be measured with the same file. One agent is idle and has one live subscriber, in a process of
its own; a host's thread emits one message. A profiler in every thread (`sys.setprofile`) notes each call of a function
of commitcast until the subscriber has the message and nothing more is called for `REST_S`. Of several trips the one
with the fewest calls is printed, because the gateway's clock runs beside them.

Prints how many modules, functions and calls there were, and how many calls in each thread and each module; with
`--list` every call, in order. A generator or coroutine that goes on counts as a call.
"""

import argparse
import asyncio
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import commitcast.actors
import commitcast.gateway
import commitcast.persistence
from commitcast.actors import AgentHandle, AgentRuntime
from commitcast.gateway import subscribe

FOLDERS: Final = {
    str(Path(package.__file__ or "").parent): package.__name__.partition(".")[2]
    for package in (commitcast.actors, commitcast.gateway, commitcast.persistence)
}
"""Where each floor is installed, and its name."""
REST_S: Final = 0.1
TIMEOUT_S: Final = 30.0


class Call(NamedTuple):
    """One call of a function."""

    thread: str
    module: str
    function: str


class Recorder:
    """Notes the calls of commitcast's functions, in the threads that begin after `install`."""

    def __init__(self) -> None:
        self.is_recording = False
        self.calls: list[Call] = []
        self._modules: dict[str, str | None] = {}

    def install(self) -> None:
        """Begin to see calls, in this thread and in those that begin later."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def wait_for_rest(self) -> None:
        """Return once nothing was called for `REST_S`."""
        before = -1
        while before != len(self.calls):
            before = len(self.calls)
            time.sleep(REST_S)

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and self.is_recording:
            module = self._module_of(frame.f_code.co_filename)
            if module is not None:
                self.calls.append(Call(threading.current_thread().name, module, frame.f_code.co_qualname))

    def _module_of(self, path: str) -> str | None:
        if path not in self._modules:
            folder = next((folder for folder in FOLDERS if path.startswith(f"{folder}/")), None)
            self._modules[path] = None if folder is None else FOLDERS[folder] + path.removeprefix(folder)
        return self._modules[path]


def measure(trips: int) -> list[Call]:
    """Return the calls of the shortest of several trips."""
    recorder = Recorder()
    recorder.install()
    with (
        tempfile.TemporaryDirectory() as folder,
        AgentRuntime(Path(folder) / "trip.db", listen="127.0.0.1:0", server="in_process") as host,
    ):
        agent = host.launch()
        agent.start().get(timeout=TIMEOUT_S)
        command = [sys.executable, __file__, "--subscribe", str(host.url), agent.id]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as subscriber:
            assert subscriber.stdout is not None
            try:
                return min((_trip(recorder, agent, subscriber.stdout) for _ in range(trips + 1)), key=len)
            finally:
                subscriber.kill()


def _trip(recorder: Recorder, agent: AgentHandle, heard: Any) -> list[Call]:
    recorder.wait_for_rest()
    recorder.calls = []
    recorder.is_recording = True
    host = threading.Thread(target=lambda: agent.emit("x"), name="host")  # the main thread takes no turn of an actor
    host.start()
    host.join()
    heard.readline()
    recorder.wait_for_rest()
    recorder.is_recording = False
    return recorder.calls


async def print_messages(url: str, agent: str) -> None:
    """Print the sequence of each message that is received."""
    async for message in subscribe(url, agent):
        print(message.sequence, flush=True)


def report(calls: list[Call], *, is_listed: bool) -> None:
    """Print what was measured."""
    modules = Counter(call.module for call in calls)
    functions = {(call.module, call.function) for call in calls}
    print(f"{len(modules)} modules, {len(functions)} functions, {len(calls)} calls")
    for thread, count in Counter(call.thread for call in calls).items():
        print(f"  {count:4} in thread {thread}")
    for module in dict.fromkeys(call.module for call in calls):
        print(f"  {modules[module]:4} of {module}")
    if is_listed:
        for thread, group in itertools.groupby(calls, key=lambda call: call.thread):
            print(f"\n{thread}")
            for call in group:
                print(f"  {call.module}: {call.function}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="print every call, in order")
    parser.add_argument("--trips", type=int, default=5, help="how many are measured; the shortest is printed")
    parser.add_argument("--subscribe", nargs=2, metavar=("URL", "AGENT"), help="be the subscriber (used by itself)")
    options = parser.parse_args()
    if options.subscribe:
        asyncio.run(print_messages(*options.subscribe))
    else:
        report(measure(options.trips), is_listed=options.list)


if __name__ == "__main__":
    main()
