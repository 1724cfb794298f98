"""What is public is listed once, defined once, and documented."""

import copy
import importlib
import inspect
import pickle
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.persistence import CommitcastError, StoreOpenError
from every_error import PACKAGES, errors, example, modules

FRONT = "commitcast"
"""The one import place."""


def package(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", [FRONT, *PACKAGES])
def test_every_public_name_is_there_and_documented(name: str) -> None:
    listed = package(name).__all__

    assert list(listed) == sorted(set(listed))
    for public in listed:
        assert inspect.getdoc(getattr(package(name), public)), public


def test_a_public_name_means_the_same_in_every_package() -> None:
    found: dict[str, object] = {}
    for name in (FRONT, *PACKAGES):
        for public in package(name).__all__:
            value = getattr(package(name), public)
            assert found.setdefault(public, value) is value, public


def test_every_error_is_defined_in_an_errors_module_and_has_a_place_in_its_tree() -> None:
    for error in errors():
        module = importlib.import_module(error.__module__)

        assert module.__name__.endswith(".errors"), f"{error.__name__} is defined in {module.__name__}"
        assert error.__name__ in (module.__doc__ or ""), f"{error.__name__} is missing from {module.__name__}"


def test_the_errors_of_the_actor_library_are_exported_with_those_of_the_actors() -> None:
    ours, kernels = (importlib.import_module(f"commitcast.actors.{name}") for name in ("errors", "kernel.errors"))

    assert set(ours.__all__) >= {
        name
        for name, value in inspect.getmembers(kernels, inspect.isclass)
        if issubclass(value, CommitcastError) and value.__module__ == kernels.__name__
    }
    for name in ours.__all__:
        assert getattr(ours, name) is getattr(kernels, name, getattr(ours, name)), name
        assert name in (ours.__doc__ or "")


def test_every_error_is_in_the_one_import_place() -> None:
    front = package(FRONT)
    missing = {error.__name__ for error in errors()} - set(front.__all__)

    assert not missing, f"add them to api/__init__.py: {', '.join(sorted(missing))}"
    assert all(getattr(front, error.__name__) is error for error in errors())
    for name in PACKAGES:  # an error of another family that is public
        for public in package(name).__all__:
            if inspect.isclass(value := getattr(package(name), public)) and issubclass(value, BaseException):
                assert public in front.__all__, f"{public} of {name} is missing in api/__init__.py"


def test_what_a_hosts_gateway_receives_is_public_and_where_it_was() -> None:
    front, actors, persistence = package(FRONT), package("commitcast.actors"), package("commitcast.persistence")
    gateway = importlib.import_module("commitcast.actors.gateway")

    assert {"Committed", "Notice", "StatusChange"} <= {*front.__all__} & {*actors.__all__}
    assert gateway.Notice is front.Notice is actors.Notice
    assert (front.Committed, front.StatusChange) == (persistence.Committed, persistence.StatusChange)


def test_every_error_can_be_pickled_and_copied() -> None:
    for kind in errors():
        error = example(kind)
        error.add_note("a note")
        copies = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]

        for other in (*copies, copy.copy(error), copy.deepcopy(error)):
            assert type(other) is kind
            assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error)), kind
            assert getattr(other, "errno", None) == getattr(error, "errno", None), kind


def test_a_hosts_own_error_can_be_pickled_whatever_its_arguments() -> None:
    error = _HostsError(code_of_host=3)

    assert vars(pickle.loads(pickle.dumps(error))) == {"code_of_host": 3}


class _HostsError(StoreOpenError):
    def __init__(self, *, code_of_host: int) -> None:
        Exception.__init__(self)
        self.code_of_host = code_of_host


def test_the_one_import_place_lists_and_gives_out_its_names_only() -> None:
    front = package(FRONT)

    assert set(dir(front)) >= {*front.__all__, "__version__"}
    assert front.__version__ == metadata.version("commitcast")
    with pytest.raises(AttributeError, match="'commitcast' has no attribute 'Ghost'"):
        _ = front.Ghost


def test_every_error_has_a_stable_code_and_says_whether_to_retry() -> None:
    codes = {str(code) for code in ErrorCode}
    for error in errors():
        assert error.code in codes, error
        assert isinstance(error.retryable, bool), error


def test_no_module_is_named_after_nothing() -> None:
    """Such a module takes in whatever has no place elsewhere."""
    for module in modules():
        assert not module.__name__.rpartition(".")[2].startswith(("util", "helper", "common", "misc")), module


@pytest.mark.parametrize(
    "first", ["import commitcast.persistence.verify", "from commitcast.persistence.verify import verify", "pass"]
)
def test_verify_is_a_function_of_its_package_whatever_is_imported_first(first: str, tmp_path: Path) -> None:
    last = f"from commitcast.persistence import verify; import commitcast.persistence as it; path = {str(tmp_path)!r}"
    script = f"{first}; {last}; names = (verify, it.verify)\n"
    script += "for name in names:\n  try: name(path)\n  except it.StoreOpenError: print('called')"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("called\n" * 2, "")
