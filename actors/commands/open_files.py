"""The limit of open files of a command: raised as far as the system allows, with a note if that is too low.

Only the commands raise it, never a host's process. Programs that agents run get the original limit.
"""

from commitcast.actors.commands.output import note
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.sockets import descriptors


def raise_limit(*, listens: bool) -> None:
    """Raise the limit of open files, and write a note if it bounds the connections.

    Args:
        listens: whether there will be connections.
    """
    descriptors.raise_soft_limit()
    limit, wanted = descriptors.soft_limit(), Limits().connections
    places = descriptors.room_for_websockets(limit)
    if listens and places < wanted:
        note(
            f"open files are limited to {limit:,}, so fewer than {places:,} subscribers can connect at once, "
            f"instead of {wanted:,}: raise the limit with `ulimit -Hn` or LimitNOFILE"
        )
