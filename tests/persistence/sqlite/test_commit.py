"""A commit finds a descriptor when the process has used up all others."""

import os
import subprocess
import sys
from pathlib import Path

FULL = """
import logging, os, resource, sys
from stores import commit, new_agent, opened, text

with opened(sys.argv[1]) as store:
    commit(store, "a", new_agent("first"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    assert len(store.messages("a")) == 1
    for number in range(3):
        commit(store, "a", text(str(number)))
    print(len(store.messages("a")), store.waits_for)
"""


def test_it_commits_and_reads_with_every_descriptor_in_use(path: Path) -> None:
    script = [sys.executable, "-c", FULL, str(path)]

    done = subprocess.run(script, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "tests/support"})

    assert (done.stdout, done.stderr) == ("4 None\n", "")
