"""The recipes of docs/serving.md for an app beside the gateway, and one app that serves one runtime after another."""

import asyncio
import http.client
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from commitcast.actors import AgentRuntime
from commitcast.gateway.server.http import asgi
from commitcast.gateway.server.http.asgi import Served
from hosting import hosted
from tunnels import FORMS, served
from waiting import TIMEOUT_S

pytestmark = pytest.mark.sampled(3, of_file=True)

PAGE: Final = Path(__file__).parents[4] / "docs/serving.md"
TESTS_TIMEOUT_S: Final = 45.0


@pytest.mark.newest  # `TestClient(client=…)` came with Starlette 0.42
def test_the_documented_app_and_its_tests_work(tmp_path: Path) -> None:
    """Two tests in a row enter the lifespan of one module-level app, with the real `TestClient`."""
    files = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert [name for name, _ in files] == ["main.py", "test_main.py"]
    for name, code in files:
        (tmp_path / name).write_text(code, "utf-8")

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=TESTS_TIMEOUT_S)

    assert re.search(r"^2 passed", done.stdout, re.MULTILINE), done.stdout + done.stderr


class TestAnAppOfTheCurrentGateway:
    def status(self, address: str, path: str = "/v1/agents") -> int:
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    async def handshake(self, address: str) -> int:
        """Return the status of a handshake."""
        try:
            async with connect(f"ws://{address}/v1/ws", proxy=None):
                return 101
        except InvalidStatus as error:
            return error.response.status_code

    @pytest.mark.parametrize("form", FORMS)
    def test_serves_one_runtime_after_another_and_refuses_between_them(self, tmp_path: Path, form: str) -> None:
        current: list[Served | None] = [None]

        with hosted(asgi.app(lambda: current[0])) as address:
            statuses = [self.status(address), asyncio.run(self.handshake(address))]
            for name in ("first", "second"):
                with AgentRuntime(tmp_path / f"{name}.db", listen="asgi") as runtime:
                    current[0] = served(runtime.gateway, form)
                    statuses += [self.status(address), asyncio.run(self.handshake(address))]
                statuses += [self.status(address), asyncio.run(self.handshake(address))]

        assert statuses == [503, 503, *[200, 101, 503, 503] * 2]

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("host", ["testserver", "evil.example"])
    def test_refuses_a_foreign_host_all_the_same(self, tmp_path: Path, host: str, form: str) -> None:
        with (
            AgentRuntime(tmp_path / "a.db", listen="asgi") as runtime,
            hosted(asgi.app(lambda: served(runtime.gateway, form))) as address,
        ):
            connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
            connection.request("GET", "/v1/agents", headers={"Host": host})
            assert connection.getresponse().status == 403
            connection.close()
