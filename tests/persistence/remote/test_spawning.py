"""Starting a server: what it is given of its first host, what others on the machine can see, and how it fails."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from commitcast.persistence.errors import CommitcastError, ServerStartError, StoreOpenError, StorePathError
from commitcast.persistence.remote import spawning
from commitcast.persistence.remote.failures import failure_of
from commitcast.persistence.remote.frames import Frame, Refused, Settings, Welcome, pack
from commitcast.persistence.remote.spawning import KEPT_VARIABLES, _absolute, _options, spawn, spawn_turn
from commitcast.persistence.remote.store import RemoteStore
from commitcast.persistence.sqlite.journal import DELETE

pytestmark = pytest.mark.sampled(6, of_file=True)

SECRET: Final = "sk-S3cr3t"
Says = Callable[..., bool]


class TestWhatItIsGiven:
    def test_nothing_secret_can_be_seen_of_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("OPENAI_API_KEY", "COMMITCAST_AGENT", "PYTHONPATH", "PYTHONSTARTUP", "LD_PRELOAD_OF_MINE"):
            monkeypatch.setenv(name, SECRET)
        monkeypatch.setattr(sys, "argv", ["program", SECRET])
        monkeypatch.setattr(sys, "path", [*sys.path, f"/{SECRET}"])
        store = RemoteStore(tmp_path / f"{SECRET}.db", journal_mode=DELETE)
        store.open()
        try:
            seen = Path(f"/proc/{store.server_pid}")
            variables = {line.partition("=")[0] for line in (seen / "environ").read_text().split("\0") if line}
            everything = (seen / "environ").read_text() + (seen / "cmdline").read_text()
            folder = os.readlink(seen / "cwd")
        finally:
            store.close()

        assert SECRET not in everything
        assert variables <= {*KEPT_VARIABLES, "LC_CTYPE"}  # the last one is set by the interpreter (PEP 538)
        assert folder == "/"

    def test_places_of_modules_are_named_in_full_and_in_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)

        assert list(_absolute(["", "sub", "/usr/lib", None, Path("x"), "../up", "/a/./b"])) == [
            *(str(place) for place in (tmp_path, tmp_path / "sub", Path("/usr/lib"), tmp_path.parent / "up", "/a/b"))
        ]

    def test_relative_places_are_left_out_in_a_folder_that_is_gone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()

        assert list(_absolute(["", "sub", "/usr/lib"])) == ["/usr/lib"]

    @pytest.mark.parametrize(
        ("flags", "options"),
        [
            ({}, ["-P"]),
            ({"ignore_environment": 1}, ["-P", "-E"]),
            ({"no_user_site": 1}, ["-P", "-s"]),
            ({"isolated": 1, "ignore_environment": 1, "no_user_site": 1}, ["-I"]),
        ],
    )
    def test_options_that_keep_code_of_others_out_are_kept(
        self, monkeypatch: pytest.MonkeyPatch, flags: dict[str, int], options: list[str]
    ) -> None:
        class Flags:
            isolated = ignore_environment = no_user_site = 0

        for name, value in flags.items():
            monkeypatch.setattr(Flags, name, value)
        monkeypatch.setattr(sys, "flags", Flags)

        assert _options() == options


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Says:
    """Spawns an interpreter that only says something."""

    def spawn_it(*frames: Frame | bytes, complaint: str = "", reads: bool = True) -> bool:
        said = b"".join(frame if isinstance(frame, bytes) else pack(frame) for frame in frames)
        (tmp_path / "said").write_bytes(said)
        (tmp_path / "complaint").write_text(complaint)
        script = (
            f"#!/bin/sh\n{'read line' if reads else 'exec <&-'}\ncat {tmp_path}/complaint >&2\ncat {tmp_path}/said\n"
        )
        interpreter = tmp_path / "interpreter"
        interpreter.write_text(script)
        interpreter.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(interpreter))
        return spawn(tmp_path / "a.db", Settings(DELETE))

    return spawn_it


class TestWhatItSays:
    def test_that_it_listens(self, says: Says) -> None:
        assert says(Welcome("", 2**22, 0, True)) is True

    def test_that_another_one_was_faster(self, says: Says) -> None:
        assert says(Refused(None)) is False

    def test_why_the_file_cannot_be_used(self, says: Says) -> None:
        with pytest.raises(StorePathError) as caught:
            says(Refused(failure_of(StorePathError("a.db", "no"))))
        assert caught.value.why == "no"

    def test_what_else_is_wrong(self, says: Says, tmp_path: Path) -> None:
        with pytest.raises(ServerStartError, match="too hot") as caught:
            says(Refused(failure_of(ValueError("too hot"))))
        assert caught.value.path == str(tmp_path / "a.db")

    @pytest.mark.parametrize(
        "said", [(), (b"\xff\xff\xff\xff no frame",), (b"\x05\0\0\0junk!",), (pack(Refused(None))[:-1],)]
    )
    @pytest.mark.parametrize("reads", [True, False])
    def test_nothing_that_can_be_understood(self, says: Says, said: tuple[bytes, ...], reads: bool) -> None:
        with pytest.raises(ServerStartError, match="ended at once: ModuleNotFoundError: no module") as caught:
            says(*said, complaint="Traceback:\n  ...\nModuleNotFoundError: no module\n", reads=reads)
        assert isinstance(caught.value, StoreOpenError)

    def test_nothing_at_all(self, says: Says) -> None:
        with pytest.raises(ServerStartError, match="ended at once: it did not say why"):
            says()

    def test_a_forked_child_that_has_its_pipes_delays_nothing(
        self, says: Says, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another thread of the host may fork while the server is started."""
        children, start = [], os.posix_spawn

        def start_beside_a_fork(*arguments: Any, **options: Any) -> int:
            if (child := os.fork()) == 0:
                signal.pause()
                os._exit(0)
            children.append(child)
            return start(*arguments, **options)

        monkeypatch.setattr(os, "posix_spawn", start_beside_a_fork)
        monkeypatch.setattr(spawning, "LOOK_S", 0.01)
        try:
            assert says(Welcome("", 2**22, 0, True)) is True
            with pytest.raises(ServerStartError, match="ended at once: no room"):
                says(complaint="no room")
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)

    def test_there_is_no_interpreter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))

        with pytest.raises(ServerStartError, match="cannot be started") as caught:
            spawn(tmp_path / "a.db", Settings(DELETE))
        assert isinstance(caught.value.__cause__, FileNotFoundError)


class TestTurns:
    def test_one_process_starts_a_server_at_a_time(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        for _ in range(2):
            with spawn_turn(path) as first, spawn_turn(path) as second, spawn_turn(tmp_path / "b.db") as other:
                assert (first, second, other) == (True, False, True)

    def test_a_name_of_any_length_and_bytes_can_be_claimed(self, tmp_path: Path) -> None:
        with spawn_turn(Path("/" + "x/" * 2_000 + "\udcff")) as is_ours:
            assert is_ours

    def test_an_error_in_the_turn_ends_it(self, tmp_path: Path) -> None:
        with pytest.raises(CommitcastError), spawn_turn(tmp_path):
            raise CommitcastError
        with spawn_turn(tmp_path) as is_ours:
            assert is_ours
