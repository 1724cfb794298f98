"""The folders at the top install as `commitcast.*` and as nothing else."""

import configparser
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("actors", "gateway", "persistence")
FRONT = "api"
"""The folder of the package `commitcast` itself."""
NOT_SHIPPED = ("bench", "conformance", "cases.json", "protocol_documents", "protocol_schema", "yardsticks")
"""Parts of the names of files that only the repository has."""
NOT_FOR_AN_EMBEDDED_RUNTIME = {"typer", "click", "rich", "prometheus_client", "uvicorn", "starlette", "jwt"}


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

    assert packages_listed() == {"commitcast", *folders}


def test_every_folder_with_modules_has_an_init() -> None:
    modules = [module for folder in FOLDERS for module in (ROOT / folder).rglob("*.py")]

    assert [module for module in modules if not (module.parent / "__init__.py").exists()] == []


def test_no_module_is_loaded_under_its_bare_folder_name() -> None:
    script = (
        "import sys, commitcast.actors.cli, commitcast.gateway.client, commitcast.persistence;"
        f"print(sorted(set({(*FOLDERS, FRONT)!r}) & set(sys.modules)))"
    )

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/")

    assert found.stdout.strip() == "[]"
    assert not {*FOLDERS, FRONT} & set(sys.modules)


def test_the_packages_hold_no_benchmarks_no_conformance_suite_and_no_generator() -> None:
    """Their folders are what a wheel has; .ci/wheel looks into a real one."""
    files = [str(path.relative_to(ROOT)) for folder in (*FOLDERS, FRONT) for path in (ROOT / folder).rglob("*.*")]

    assert [file for file in files if any(part in file for part in NOT_SHIPPED)] == []


def modules_after(script: str) -> set[str]:
    """Return the names of the modules that a fresh interpreter has loaded after a script."""
    script = f"{script}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/")
    return set(done.stdout.split())


def test_importing_the_front_package_loads_none_of_its_parts() -> None:
    loaded = modules_after("import commitcast")

    ours = {name for name in loaded if name.startswith("commitcast")}
    assert ours == {"commitcast", "commitcast.persistence", "commitcast.persistence.lazy"}
    assert not loaded & {"apsw", "asyncio", "msgspec", "pykka", "websockets"}


@pytest.mark.parametrize("name", ["AgentRuntime", "Draft", "CommandSource"])
def test_an_embedded_runtime_needs_no_library_of_the_commands(name: str) -> None:
    assert not modules_after(f"from commitcast import {name}") & NOT_FOR_AN_EMBEDDED_RUNTIME


@pytest.mark.parametrize("name", ["subscribe", "Client", "BlockingClient", "SubscriptionError"])
def test_a_subscriber_loads_neither_actors_nor_server_nor_database(name: str) -> None:
    loaded = modules_after(f"from commitcast import {name}")

    assert not {module for module in loaded if module.startswith(("commitcast.actors", "commitcast.gateway.server"))}
    assert "apsw" not in loaded


def test_an_embedded_runtime_loads_no_client() -> None:
    assert "commitcast.gateway.client" not in modules_after("from commitcast import AgentRuntime")


def test_the_package_is_run_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "commitcast", "--version"], capture_output=True, text=True, check=True, cwd="/"
    )

    assert done.stdout == f"commitcast {metadata.version('commitcast')}\n"


def test_data_files_are_reachable_as_resources() -> None:
    assert "CREATE TABLE agents" in resources.files("commitcast.persistence.sqlite.schema").joinpath(
        "0001_initial.sql"
    ).read_text("utf-8")
    assert resources.files("commitcast.actors.commands").joinpath("demo_texts.txt").is_file()
    for folder in FOLDERS:
        assert resources.files(f"commitcast.{folder}").joinpath("py.typed").is_file()
    assert resources.files("commitcast").joinpath("py.typed").is_file()
    assert resources.files("commitcast.gateway.protocol").joinpath("asyncapi.json").is_file()


def test_the_console_script_and_the_pytest_plugin_are_registered() -> None:
    distribution = metadata.distribution("commitcast")
    entries = {(entry.group, entry.name): entry for entry in distribution.entry_points}

    assert callable(entries["console_scripts", "commitcast"].load())
    assert entries["pytest11", "commitcast"].load().__name__ == "commitcast.actors.pytest_plugin"
