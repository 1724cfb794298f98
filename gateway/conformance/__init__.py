"""The conformance suite of the protocol: cases as data, and runners that play them against a server or a client.

What is here serves whoever writes another server or another client as much as our own tests. The format of the cases
is written down in docs/conformance.md, so that a runner can be written in any language. Nothing of the gateway is used
but the name of the subprotocol: a suite that shared code with what it judges would share its mistakes.
"""

from commitcast.gateway.conformance.cases import Case, Fields, load_cases
from commitcast.gateway.conformance.client_runner import ClientFailed, ClientUnderTest, Follower, run_client_case
from commitcast.gateway.conformance.command import CommandFailedError, CommandServer
from commitcast.gateway.conformance.matching import Mismatch
from commitcast.gateway.conformance.server_runner import KillableServer, ServerUnderTest, run_server_case

__all__ = [
    "Case",
    "ClientFailed",
    "ClientUnderTest",
    "CommandFailedError",
    "CommandServer",
    "Fields",
    "Follower",
    "KillableServer",
    "Mismatch",
    "ServerUnderTest",
    "load_cases",
    "run_client_case",
    "run_server_case",
]
