"""The states of a client's connection, and the events that move it from one to the next.

    DISCONNECTED -> CONNECTING -> SUBSCRIBING -> BEHIND -> LIVE -> ENDED

A subscription starts disconnected. It is disconnected again, and waits, after each loss of the connection. `hello` has
no state of its own: it is sent with the `subscribe` behind it, and a refusal of either is a loss. BEHIND and LIVE
deliver alike; BEHIND says that the server still replays what was stored before. A frame that does not join the cursor
leads back to SUBSCRIBING on the same connection.

The table is the whole truth, in the manner of h11's `_state.py`: an event that it does not list for a state changes
nothing there, so a frame that comes too early, too late or twice is ignored. Pure.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class State(Enum):
    """Where the connection of a subscription is."""

    DISCONNECTED = auto()
    """There is no connection: not yet, or the client waits to reconnect."""
    CONNECTING = auto()
    """A connection is being made, or the server's `welcome` is awaited."""
    SUBSCRIBING = auto()
    """The reply to `subscribe` is awaited. Frames of a stream belong to the subscription before, and are ignored."""
    BEHIND = auto()
    """The server replays what was stored."""
    LIVE = auto()
    """Everything stored was received; new messages come as they are committed."""
    ENDED = auto()
    """The agent has ended and every message was given out. Nothing leads out of this state."""


class Event(Enum):
    """What moves a connection from one state to another."""

    CONNECT = auto()
    WELCOME = auto()
    SUBSCRIBED = auto()
    LIVE = auto()
    GAP = auto()
    """A frame does not join the cursor, or the store stays ahead: `subscribe` is sent again."""
    END = auto()
    LOSS = auto()


_ANYWHERE: Final = {Event.CONNECT: State.CONNECTING, Event.LOSS: State.DISCONNECTED}
_SUBSCRIBED: Final = _ANYWHERE | {Event.GAP: State.SUBSCRIBING, Event.END: State.ENDED}

TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.DISCONNECTED: _ANYWHERE,
    State.CONNECTING: _ANYWHERE | {Event.WELCOME: State.SUBSCRIBING},
    State.SUBSCRIBING: _ANYWHERE | {Event.SUBSCRIBED: State.BEHIND},
    State.BEHIND: _SUBSCRIBED | {Event.LIVE: State.LIVE},
    State.LIVE: _SUBSCRIBED,
    State.ENDED: {},
}
RECEIVING: Final = frozenset({State.BEHIND, State.LIVE})
"""The states in which the frames of a stream move the cursor."""
