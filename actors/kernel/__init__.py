"""The actor library: Pykka's API, our scheduler. Knows nothing of agents, databases or gateways.

Read in this order: `mailbox.py` (the states, and how an actor is woken), `actor.py` (start, loop, end), `ref.py` and
`future.py` (how to reach an actor, and its answer), `dispatch.py` and `timers.py` (which thread takes a turn, when),
`supervision.py` (restarts), `waiting.py` (the one place where a thread blocks). `seeded.py` is a dispatcher for tests.

It imports nothing of ours but three errors: `tests/test_architecture.py` names them.
"""
