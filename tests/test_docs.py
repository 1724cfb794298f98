"""The documents say what the code does: every code, frame and command is described, every path named is there."""

import re
from pathlib import Path

import pytest

from commitcast.actors.cli import COMMANDS
from commitcast.gateway.protocol.errors import CloseCode, ErrorCode
from commitcast.gateway.protocol.frames import ClientFrame, ServerFrame

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "docs/protocol.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_error_code_is_described(code: ErrorCode) -> None:
    assert f"| `{code.value}` |" in PROTOCOL


@pytest.mark.parametrize("code", list(CloseCode))
def test_every_close_code_is_described(code: CloseCode) -> None:
    assert f"| {code.value} |" in PROTOCOL
    assert code.come_back == (4000 <= code < 4500)


@pytest.mark.parametrize("frame", [*ClientFrame.__args__, *ServerFrame.__args__], ids=lambda frame: frame.__name__)
def test_every_frame_and_its_fields_are_described(frame: type) -> None:
    config = frame.__struct_config__  # type: ignore[attr-defined]

    assert f"`{config.tag}`" in PROTOCOL
    for field in frame.__struct_fields__:  # type: ignore[attr-defined]
        assert f"`{field}`" in PROTOCOL, f"{config.tag}.{field}"


def test_every_command_is_in_the_readme_or_the_changelog() -> None:
    written = README + (ROOT / "CHANGELOG.md").read_text("utf-8")

    for name in COMMANDS:
        assert f"`{name}`" in written or f"commitcast {name}" in written


def test_every_test_that_the_guarantees_name_is_there() -> None:
    guarantees = (ROOT / "docs/guarantees.md").read_text("utf-8")

    for path, names in re.findall(r"`([\w/]+\.py)((?:::\w+)*)`", guarantees):
        source = (ROOT / "tests" / path).read_text("utf-8")
        for name in filter(None, names.split("::")):
            assert re.search(rf"(class|def) {name}\b", source), f"{path} has no {name}"


def test_every_link_between_the_documents_leads_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_readme_opens_with_two_commands() -> None:
    commands = re.findall(r"```sh\n(.+?)\n```", README, re.DOTALL)[:2]

    assert "commitcast demo" in commands[0] and "pip install" in commands[0]
    assert "pytest" in commands[1] and "[test]" in commands[1]
    assert all("\n" not in command for command in commands)


def test_no_document_names_a_place_on_somebodys_machine() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        assert not re.search(r"(?<![\w.])/(work|home|root|Users)/", document.read_text("utf-8")), document


def test_every_module_and_room_in_the_architecture_exists_and_every_room_is_there() -> None:
    written = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("*/**/*.py")}
    rooms = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("[agp]*/**/__init__.py")}

    named = set(re.findall(r"`([\w/]+\.py)`", written))

    assert named
    assert named <= modules, "a path is written whole"
    folders = {name.rstrip("/") for name in re.findall(r"`([\w/]+/)`", written)}
    assert rooms - folders <= {"persistence/sqlite/schema"}


def test_what_the_trip_of_a_message_names_stands_in_the_file_named_before_it() -> None:
    trip = (ROOT / "ARCHITECTURE.md").read_text("utf-8").partition("## One message")[2].partition("\n## ")[0]
    file, missing, count = "", [], 0
    for name in re.findall(r"`([^`\s]+)`", trip):
        if name.endswith(".py"):
            file = (ROOT / name).read_text("utf-8")
        elif file and re.fullmatch(r"[\w.]+", name):
            count += 1
            missing += [name for part in name.split(".") if not re.search(rf"\b{part}\b", file)]

    assert count > 30
    assert missing == []
