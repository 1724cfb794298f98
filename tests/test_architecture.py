"""The rules of the house that a machine can read: imports point down, modules say what they are, files stay short."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "persistence": {"persistence"},
    "gateway": {"gateway", "persistence"},
    "actors": {"actors", "gateway", "persistence"},
    "api": {"actors", "gateway", "persistence"},
}
LAZY = {"api/__init__.py", "actors/form.py", "actors/runtime.py", "gateway/process/doors.py"}
"""Modules that import others when those are first needed: the front package, so that `import commitcast` is quick; the
runtime and its form, so that it loads the gateway's server only to listen (see tests/actors/test_loading.py); and the
doors, because the app of a host needs an extra."""
ROOMS = {
    "actors/kernel": {"actors/kernel", "persistence/errors.py"},
    "gateway/protocol": {"gateway/protocol", "persistence"},
    "gateway/hub": {"gateway/hub", "gateway/protocol", "persistence"},
    "gateway/server": {"gateway/server", "gateway/hub", "gateway/protocol", "gateway/web", "persistence"},
    "gateway/process": {
        "gateway/process",
        "gateway/server",
        "gateway/hub",
        "gateway/protocol",
        "gateway/tls.py",
        "persistence",
    },
    "gateway/client": {"gateway/client", "gateway/protocol", "persistence"},
    "persistence/recovery": {
        "persistence/recovery",
        *(f"persistence/{name}.py" for name in ("clock", "errors", "records", "store", "writes")),
    },
}
"""What each inner room may import of ours: client and server do not see each other, the hub sees neither; recovery
sees what all stores share, and no store."""
KERNEL_MAY_NAME = {"CommitcastError", "ForkedRuntimeError", "InvalidValueError"}
"""All that the actor library needs of the rest: the root of the errors, and two that hosts know from elsewhere."""
PURE = {
    *(str(path.relative_to(ROOT)) for path in (ROOT / "gateway/hub").glob("*.py")),
    *(str(path.relative_to(ROOT)) for path in (ROOT / "gateway/protocol").glob("*.py")),
    "gateway/server/access/auth.py",
    "gateway/server/access/limits.py",
    "gateway/server/access/origins.py",
    "gateway/server/http/request.py",
    "gateway/server/http/tunnel_frames.py",
    "gateway/server/options.py",
    "gateway/server/http/sse.py",
    "gateway/server/peer.py",
    "gateway/client/protocol.py",
    "gateway/client/reconnect.py",
    "gateway/client/requests.py",
    "gateway/client/states.py",
    "actors/lifecycle.py",
    "persistence/records.py",
    "persistence/writes.py",
    *(f"persistence/remote/{name}.py" for name in ("failures", "frames", "outcomes", "owners", "unsendable", "values")),
    "gateway/process/batches.py",
    *(str(path.relative_to(ROOT)) for path in (ROOT / "actors/sources/parsers").glob("*.py")),
    "actors/sources/lines.py",
    "actors/sources/draft.py",
}
IMPURE = {"asyncio", "threading", "sqlite3", "apsw", "time", "random", "socket", "queue", "subprocess", "secrets"}
MAX_LINES = 400
PROGRAMS = ("tests/benchmarks", "tests/conformance", "tests/tools")
"""Folders of programs that belong to the repository and not to the wheel; their tests stand beside them."""
SQL = ("SELECT ", "INSERT INTO", "UPDATE ", "DELETE FROM", "PRAGMA ")


def modules() -> list[Path]:
    return sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))


def is_for_types(node: ast.stmt) -> bool:
    """Whether this is `if TYPE_CHECKING:`, whose imports are never carried out."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def programs() -> list[Path]:
    found = (path for folder in PROGRAMS for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if not path.name.startswith("test_"))


@cache
def tree_of(module: Path) -> ast.Module:
    return ast.parse(module.read_text("utf-8"))


def imports(module: Path) -> Iterator[tuple[str, bool]]:
    """Every imported module, and whether it is imported inside of a function."""
    tree = tree_of(module)
    at_top: list[ast.AST] = [*tree.body]
    for block in tree.body:
        if isinstance(block, ast.If) and is_for_types(block):
            at_top += block.body
    for node in ast.walk(tree):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        for name in names:
            yield name, node not in at_top


def dependencies(module: Path, *, with_types: bool = True) -> Iterator[str]:
    """Every module that is needed: of `from package import module` that module, not the package."""
    skipped: list[ast.AST] = []
    for block in [] if with_types else tree_of(module).body:
        if isinstance(block, ast.If) and is_for_types(block):
            skipped += block.body
    for node in ast.walk(tree_of(module)):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            are_modules = [(ROOT / Path(*name.split(".")[1:])).with_suffix(".py").exists() for name in inner]
            yield from (name for name, is_module in zip(inner, are_modules, strict=True) if is_module)
            if not all(are_modules):
                yield node.module


def is_ours(name: str) -> bool:
    return name.startswith("commitcast.")


def violations(rule: Callable[[Path], object], among: list[Path] | None = None) -> dict[str, object]:
    """Return what a rule finds in each module in which it finds something."""
    return {str(module.relative_to(ROOT)): found for module in among or modules() if (found := rule(module))}


def public_names_without_docstring(module: Path) -> list[str]:
    missing = []
    for node in ast.walk(tree_of(module)):
        body = getattr(node, "body", None)
        if not isinstance(node, ast.Module | ast.ClassDef) or not isinstance(body, list):
            continue
        if isinstance(node, ast.ClassDef) and node.name.startswith("_"):
            continue
        for inner in body:
            is_named = isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if is_named and not inner.name.startswith("_") and not ast.get_docstring(inner):
                missing.append(inner.name)
    return missing


class TestEveryModule:
    def test_imports_point_down(self) -> None:
        def upward(module: Path) -> set[str]:
            ours = {name.split(".")[1] for name, _ in imports(module) if is_ours(name)}
            return ours - MAY_IMPORT[module.relative_to(ROOT).parts[0]]

        assert violations(upward) == {}

    def test_imports_only_what_its_room_may_see(self) -> None:
        def hidden(module: Path) -> set[str]:
            here = str(module.relative_to(ROOT))
            room = next((name for name in ROOMS if here.startswith(f"{name}/")), None)
            if room is None:
                return set()
            seen = {
                name.removeprefix("commitcast.").replace(".", "/") for name in dependencies(module) if is_ours(name)
            }
            return {name for name in seen if not any(f"{name}.py".startswith(allowed) for allowed in ROOMS[room])}

        assert violations(hidden) == {}


class TestEveryModuleAndProgram:
    """Of the product, and of the programs beside it."""

    ALL: Final = [*modules(), *programs()]

    def test_imports_stand_at_the_top(self) -> None:
        def late(module: Path) -> list[str]:
            if str(module.relative_to(ROOT)) in LAZY:
                return []
            return [name for name, is_late in imports(module) if is_late]

        assert violations(late, self.ALL) == {}

    def test_begins_with_a_docstring(self) -> None:
        assert violations(lambda module: not ast.get_docstring(tree_of(module)), self.ALL) == {}

    def test_is_short(self) -> None:
        """A longer one is split by responsibility."""

        def length(module: Path) -> int:
            lines = len(module.read_text("utf-8").splitlines())
            return lines if lines > MAX_LINES else 0

        assert violations(length, self.ALL) == {}

    def test_public_names_have_docstrings(self) -> None:
        assert violations(public_names_without_docstring, self.ALL) == {}


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_import_neither_clock_nor_thread_nor_socket(name: str) -> None:
    assert {imported.split(".")[0] for imported, _ in imports(ROOT / name)} & IMPURE == set()


def test_no_module_imports_itself_by_a_detour() -> None:
    names = {
        ".".join(("commitcast", *module.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): module
        for module in modules()
    }
    graph = {name: names.keys() & set(dependencies(module, with_types=False)) for name, module in names.items()}

    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle

    assert len(order) == len(names)


def test_the_kernel_could_be_published_alone() -> None:
    """It imports nothing of ours but itself and three errors by name."""
    seen = set()
    for module in (ROOT / "actors/kernel").glob("*.py"):
        for node in ast.walk(tree_of(module)):
            name = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if isinstance(node, ast.ImportFrom) and is_ours(name) and not name.startswith("commitcast.actors.kernel"):
                seen |= {alias.name for alias in node.names}

    assert seen == KERNEL_MAY_NAME


def imported_names(module: Path) -> set[str]:
    """Every name of ours that is imported, with that of its module; and every module that is imported whole."""
    names = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] == "commitcast"}


def test_the_gateway_sees_readers_and_never_a_store() -> None:
    """What cannot name a store cannot write: the type checker proves the rest.

    But for the main of the server process, where a store and gateways are put together.
    """
    stores = re.compile(r"commitcast(\.persistence)?(\.(sqlite.*|store|Store|SqliteStore|store\.Store|.*\*))?$")

    def seen(module: Path) -> set[str]:
        return {name for name in imported_names(module) if stores.match(name)}

    rooms = [path for path in (ROOT / "gateway").rglob("*.py") if path.parent.name != "process"]
    assert violations(seen, sorted(rooms)) == {}
    assert "commitcast.persistence.store.Reader" in imported_names(ROOT / "gateway/server/reader.py")


def test_the_actors_know_the_floors_below_through_their_backend() -> None:
    """So that the floors below may move into a process of their own: only composition names what runs there.

    Beside that the actors count with the gateway's `Histogram`. The commands are programs on top of the house.
    """
    running = re.compile(r"commitcast\.(gateway\.(?!protocol\.)|persistence\.(sqlite|SqliteStore|store\.Store|Store))")

    def seen(module: Path) -> set[str]:
        return {name for name in imported_names(module) if running.match(name)}

    actors = [path for path in (ROOT / "actors").rglob("*.py") if path.parent.name != "commands"]
    assert set(violations(seen, actors)) == {
        f"actors/{name}.py"
        for name in ("backend", "form", "host_requests", "in_process", "metrics", "runtime", "served", "testing")
    }


def test_what_all_stores_share_knows_none_of_them() -> None:
    """A second store stands beside the first: only the package itself names one."""
    seen = {
        str(module.relative_to(ROOT)): {name for name in dependencies(module) if "persistence.sqlite" in name}
        for module in (ROOT / "persistence").glob("*.py")
    }

    assert {module for module, names in seen.items() if names} == {
        "persistence/__init__.py",
        "persistence/verify.py",
    }


def test_programs_are_not_part_of_the_product() -> None:
    """The wheel has no folder `tests`, so what it imports from there would be missing."""
    names = {program.stem for program in programs()}

    found = {name for module in modules() for name, _ in imports(module) if name.split(".")[0] in names | {"tests"}}

    assert found == set()


def test_sql_stands_in_persistence_only() -> None:
    found = []
    for module in modules():
        if module.relative_to(ROOT).parts[0] == "persistence":
            continue
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(SQL):
                found.append(f"{module.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_nothing_begins_a_deferred_write_transaction() -> None:
    """A read transaction that becomes a write one can fail at once, whatever the busy timeout says."""
    writers = [(ROOT / f"persistence/sqlite/{name}.py").read_text("utf-8") for name in ("commit", "watch")]

    assert [writer.count('"BEGIN IMMEDIATE"') for writer in writers] == [1, 1]
    assert not any('"BEGIN"' in writer for writer in writers)
