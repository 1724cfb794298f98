"""Plays the cases for servers against your server, in any language.

    python tests/conformance/play.py [OPTIONS] -- COMMAND [ARGUMENT …]

COMMAND is a program that starts the server and carries out commands: see docs/conformance.md. Needs Python 3.11
or later and `websockets`, and nothing of commitcast: the folder can be copied.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cases import Case, load_cases
from command import CommandFailedError, CommandServer
from matching import Mismatch
from server_runner import TIMEOUT_S, run_server_case


def main(arguments: Sequence[str]) -> int:
    """Play the cases that are asked for; return 0 if the server passes them."""
    options = _parser().parse_args(arguments)
    cases = [case for case in load_cases("server") if options.only.lower() in case.name.lower()]
    played = [case for case in cases if not set(case.needs) & set(options.without)]
    failed = sum(not _passes(case, options.command, options.timeout) for case in played)
    print(f"{len(played) - failed} passed, {failed} failed, {len(cases) - len(played)} left out")
    return 1 if failed or not played else 0


def _passes(case: Case, command: Sequence[str], timeout_s: float) -> bool:
    fault = ""
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        try:
            asyncio.run(run_server_case(case, CommandServer(command, Path(folder)), timeout_s=timeout_s))
        except (Mismatch, CommandFailedError, OSError) as error:
            fault = str(error)
    print(f"FAILED  {case.name}\n        {fault}" if fault else f"passed  {case.name}", flush=True)
    return not fault


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="play.py", description="Play the cases for servers against a server.")
    needs = sorted({need for case in load_cases("server") for need in case.needs})
    parser.add_argument("--only", default="", metavar="TEXT", help="play only the cases with this text in their names")
    parser.add_argument(
        "--without", action="append", default=[], choices=needs, help="leave out the cases that need this"
    )
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, metavar="S", help="seconds to wait for each expected frame"
    )
    parser.add_argument(
        "command", nargs="+", help="the program that starts the server, and reads commands on standard input"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
