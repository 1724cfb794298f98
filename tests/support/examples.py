"""How much is tried of what can be tried without end."""

import os
from typing import Final

_SET: Final = os.environ.get("COMMITCAST_EVERYTHING", "")
EVERYTHING: Final = bool(_SET)
"""All shapes of every test that is marked `sampled`, and many examples."""
THE_REST: Final = _SET == "rest"
"""Of it, what the ordinary run with the same COMMITCAST_SEED leaves out: what CI runs beside that one."""


def examples(few: int, many: int) -> int:
    """Return how many examples are tried: `few`, with COMMITCAST_EVERYTHING `many`, or COMMITCAST_EXAMPLES."""
    return int(os.environ.get("COMMITCAST_EXAMPLES") or (many if EVERYTHING else few))
