"""The one seam between our actors and the threads that run them.

Every actor of the product derives from `ActorBase`, which uses only Pykka's hooks for new actor types. Replacing the
way in which actors are scheduled means replacing this module.
"""

import threading
from typing import Any

import pykka

from commitcast.actors.future import Future


class ActorBase(pykka.ThreadingActor):
    """An actor with a thread of its own, named `<Actor>-<name>`, whose asks return our `Future`."""

    # A host that forgets to stop its runtime must still be able to exit; what is not committed was never promised.
    use_daemon_thread = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __str__(self) -> str:
        return f"{type(self).__name__}-{self._name}"

    @staticmethod
    def _create_future() -> Future[Any]:
        return Future()

    def _start_actor_loop(self) -> None:
        threading.Thread(target=self._actor_loop, name=str(self), daemon=self.use_daemon_thread).start()

    def is_mailbox_empty(self) -> bool:
        """Whether nothing waits to be handled."""
        return self.actor_inbox.empty()
