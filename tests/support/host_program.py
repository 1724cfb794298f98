"""A host as a program of its own: executes what a test sends it, line by line, and answers each line with another.

A line is `{"code": …}`, an answer `{"value": …}` or `{"error": its class, "text": …}`; both are JSON. The value is that
of the last expression. All lines share one set of names. See `hosts.py`.
"""

import ast
import fcntl
import json
import os
import resource
import sys
import threading
import time
from typing import Any

from commitcast import AgentRuntime, CommandSource
from commitcast.persistence.remote import spawning

LINGER = "HOST_LINGER_S"
"""The environment variable with `spawning.LINGER_S`."""

ANSWERS = 900
"""The descriptor for answers, or the next free one: above those that the host's own files get."""

failures: list[str] = []


def load(runtime: AgentRuntime, agents: int, acknowledged: str, rest_s: float = 0.0) -> list[str]:
    """Emit without end from as many agents, and write each message to a file once it is acknowledged."""
    file = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    launched = runtime.launch_many(agents)

    def emit(agent: Any) -> None:
        number = 0
        while True:
            number += 1
            try:
                record = agent.emit(f"{agent.id} {number}").get(30)
            except Exception as error:
                failures.append(type(error).__name__)
                return
            os.write(file, f"{agent.id} {record.sequence} {record.content}\n".encode())
            time.sleep(rest_s)

    for agent in launched:
        threading.Thread(target=emit, args=(agent,), daemon=True).start()
    return [agent.id for agent in launched]


names: dict[str, Any] = {
    "AgentRuntime": AgentRuntime,
    "CommandSource": CommandSource,
    "failures": failures,
    "load": load,
    "os": os,
    "path": sys.argv[1] if len(sys.argv) > 1 else "",
    "sys": sys,
    "threading": threading,
    "time": time,
}


def execute(code: str) -> Any:
    """Execute statements, and return the value of the last one if it is an expression."""
    tree = ast.parse(code)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(code, names)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), "<test>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<test>", "eval"), names)


def answer(line: str) -> dict[str, Any]:
    """Execute one line and return its answer."""
    try:
        return {"value": execute(json.loads(line)["code"])}
    except BaseException as error:  # the test is told, and decides
        return {"error": type(error).__name__, "text": str(error)}


def main() -> None:
    """Answer lines until there are no more."""
    spawning.LINGER_S = float(os.environ.get(LINGER, "0"))  # type: ignore[misc]  # the tests need not wait for it
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    answers = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, min(ANSWERS, most // 2))
    os.dup2(2, 1)  # what a source prints
    for line in sys.stdin:
        os.write(answers, (json.dumps(answer(line), default=str) + "\n").encode())


if __name__ == "__main__":
    main()
