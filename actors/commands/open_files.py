"""How many open files a command of ours may have: as many as the system lets it, and said where that is few.

Only the commands raise the limit: a host's process is its own. Programs that agents run get what the command was given.
"""

from commitcast.actors.commands.output import note
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.sockets import descriptors


def raise_limit(*, listens: bool) -> None:
    """Raise the limit of open files, and say if it bounds the connections.

    Args:
        listens: whether there will be connections.
    """
    descriptors.raise_soft_limit()
    limit, wanted = descriptors.soft_limit(), Limits().connections
    places = descriptors.room_for_websockets(limit)
    if listens and places < wanted:
        note(
            f"open files are limited to {limit:,}: fewer than {places:,} subscribers at once instead of {wanted:,}; "
            "raise it with `ulimit -Hn` or LimitNOFILE"
        )
