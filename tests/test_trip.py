"""The tool that measures the trip of a message sees it from end to end."""

import re
import subprocess
import sys
from pathlib import Path

from waiting import TIMEOUT_S

TOOL = Path(__file__).parent / "tools" / "trip.py"


def test_the_trip_begins_at_the_handle_and_ends_at_the_socket() -> None:
    command = [sys.executable, str(TOOL), "--list"]

    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=6 * TIMEOUT_S).stdout

    summary, *rest = output.splitlines()
    found = re.fullmatch(r"(\d+) modules, (\d+) functions, \d+ calls", summary)
    assert found is not None
    assert int(found[1]) <= 30
    assert int(found[2]) <= 112
    calls = [line.strip() for line in rest if ".py: " in line]
    assert calls[0] == "actors/handle.py: AgentHandle.emit"
    assert any(call.startswith("gateway/server/") for call in calls)
    assert any(call.startswith("persistence/sqlite/") for call in calls)
