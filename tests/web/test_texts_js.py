"""The reader that docs/protocol.md gives to those who write a client: it reads what ours read."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from texts import CASES, Case

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
READ = """
const read = reader();
const items = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(items.map(read).join("")));
"""


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", [case for case in CASES if case.is_for_example], ids=lambda case: case.name)
def test_the_reader_of_the_protocol_reads(case: Case) -> None:
    if shutil.which("node") is None:
        pytest.skip("needs node: the reader is tested in it")
    found = re.search(r"```js\n(.*?function reader\(\).*?)```", PROTOCOL.read_text("utf-8"), re.S)
    assert found is not None

    done = subprocess.run(
        ["node", "-e", found[1] + READ], input=msgspec.json.encode(case.items), capture_output=True, check=True
    )

    assert json.loads(done.stdout).split("\n")[1:] == "\n".join(text for _, text in case.shown).split("\n")
