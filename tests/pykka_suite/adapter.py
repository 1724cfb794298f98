"""What Pykka's own tests are run against: our actor, made as those tests make an actor."""

from typing import Any, Final

from commitcast.actors.kernel.actor import Actor
from commitcast.actors.kernel.dispatch import ThreadDispatcher
from commitcast.actors.kernel.future import Future

__all__ = ["Future", "SuiteActor"]

_dispatcher: Final = ThreadDispatcher("suite")


class SuiteActor(Actor):
    """An actor on the suite's dispatcher."""

    def __init__(self, *_args: Any, **_options: Any) -> None:
        super().__init__(type(self).__name__, _dispatcher)
