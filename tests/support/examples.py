"""How much is tried of what can be tried without end."""

import os
from typing import Final

EVERYTHING: Final = bool(os.environ.get("COMMITCAST_EVERYTHING"))
"""Set in CI: all shapes of every test that is marked `sampled`, and all examples."""


def examples(few: int, many: int) -> int:
    """Return how many examples are tried: `few`, in CI `many`, or COMMITCAST_EXAMPLES."""
    return int(os.environ.get("COMMITCAST_EXAMPLES") or (many if EVERYTHING else few))
