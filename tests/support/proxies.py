"""A real nginx on a port of its own, configured by the test."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waiting import wait_until

_MAIN = """
pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off; worker_processes 1; {user}
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {servers}
}}
"""


def free_port() -> int:
    """Return a port that nobody has right now."""
    with socket.create_server(("127.0.0.1", 0)) as plug:
        port: int = plug.getsockname()[1]
        return port


def documented(block: int, upstream: str) -> str:
    """Return a block of nginx' configuration as the documents have it, for an upstream; without TLS."""
    page = Path(__file__).parents[2] / "docs/reverse-proxies.md"
    text = re.findall(r"```nginx\n(.*?)```", page.read_text("utf-8"), re.DOTALL)[block]
    text = text.replace("http://127.0.0.1:8765", f"http://{upstream}").replace(
        "listen 443 ssl;", "listen 127.0.0.1:PORT;"
    )
    return re.sub(r" *ssl_certificate.*;\n", "", text)


@contextmanager
def nginx(folder: Path, servers: str) -> Iterator[str]:
    """Run nginx with these servers, whose port is written `PORT`; yields the address."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    assert Path(program).exists(), "these tests need nginx: apt install nginx-light"
    port = free_port()
    user = "user root;" if os.getuid() == 0 else ""  # its worker must be able to write below the test's folder
    configuration = folder / "nginx.conf"
    configuration.write_text(_MAIN.format(folder=folder, user=user, servers=servers.replace("PORT", str(port))))
    process = subprocess.Popen([program, "-e", f"{folder}/error.log", "-c", str(configuration)])

    def answers() -> bool:
        with socket.socket() as plug:
            return plug.connect_ex(("127.0.0.1", port)) == 0 or process.poll() is not None

    try:
        wait_until(answers, "nginx to listen")
        assert process.poll() is None, (folder / "error.log").read_text()
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
