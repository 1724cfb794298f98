"""The folders at the top install as `commitcast.*` and as nothing else."""

import configparser
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("actors", "gateway", "persistence")


def packages_listed() -> set[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    return set(setup["options"]["packages"].split())


def test_every_folder_with_code_is_listed_as_a_package() -> None:
    folders = {
        ".".join(("commitcast", *init.parent.relative_to(ROOT).parts))
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }

    assert packages_listed() == folders


def test_every_folder_with_modules_has_an_init() -> None:
    modules = [module for folder in FOLDERS for module in (ROOT / folder).rglob("*.py")]

    assert [module for module in modules if not (module.parent / "__init__.py").exists()] == []


def test_no_module_is_loaded_under_its_bare_folder_name() -> None:
    script = (
        "import sys, commitcast.actors.cli, commitcast.gateway.client, commitcast.persistence.verify;"
        f"print(sorted(set({FOLDERS!r}) & set(sys.modules)))"
    )

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/")

    assert found.stdout.strip() == "[]"
    assert not set(FOLDERS) & set(sys.modules)


def test_data_files_are_reachable_as_resources() -> None:
    assert "CREATE TABLE agents" in resources.files("commitcast.persistence.sqlite.schema").joinpath(
        "0001_initial.sql"
    ).read_text("utf-8")
    assert resources.files("commitcast.actors.commands").joinpath("demo_texts.txt").is_file()
    for folder in FOLDERS:
        assert resources.files(f"commitcast.{folder}").joinpath("py.typed").is_file()


def test_the_console_script_and_the_pytest_plugin_are_registered() -> None:
    distribution = metadata.distribution("commitcast")
    entries = {(entry.group, entry.name): entry for entry in distribution.entry_points}

    assert callable(entries["console_scripts", "commitcast"].load())
    assert entries["pytest11", "commitcast"].load().__name__ == "commitcast.actors.pytest_plugin"
