"""What is public is listed once, defined once, and documented."""

import importlib
import inspect
import pkgutil
from importlib import metadata
from types import ModuleType

import pytest

from commitcast.persistence import CommitcastError

PACKAGES = ("commitcast.actors", "commitcast.gateway", "commitcast.persistence")
FRONT = "commitcast"
"""The one import place."""
ERRORS = ("commitcast.actors.errors", "commitcast.gateway.protocol.errors", "commitcast.persistence.errors")


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


def test_every_public_error_is_in_the_one_import_place() -> None:
    for name in PACKAGES:
        for public in package(name).__all__:
            value = getattr(package(name), public)
            if isinstance(value, type) and issubclass(value, Exception):
                assert public in package(FRONT).__all__, f"{public} of {name} is missing in api/__init__.py"


def test_the_one_import_place_lists_and_gives_out_its_names_only() -> None:
    front = package(FRONT)

    assert set(dir(front)) >= {*front.__all__, "__version__"}
    assert front.__version__ == metadata.version("commitcast")
    with pytest.raises(AttributeError, match="'commitcast' has no attribute 'Ghost'"):
        _ = front.Ghost


def test_every_error_has_a_place_in_the_tree_of_its_package() -> None:
    for name in ERRORS:
        errors = importlib.import_module(name)
        tree = errors.__doc__ or ""
        for public, value in inspect.getmembers(errors, inspect.isclass):
            if issubclass(value, Exception) and value.__module__ == errors.__name__:
                assert public in tree, f"{public} is missing from the tree in {errors.__name__}"


def test_every_error_has_a_stable_code_and_says_whether_to_retry() -> None:
    for name in ERRORS:
        errors = importlib.import_module(name)
        for _, value in inspect.getmembers(errors, inspect.isclass):
            if issubclass(value, CommitcastError) and value.__module__ == errors.__name__:
                assert value.code in set(importlib.import_module("commitcast.gateway.protocol.errors").ErrorCode)
                assert isinstance(value.retryable, bool)


def test_submodules_import_without_side_effects_on_each_other() -> None:
    for name in PACKAGES:
        for module in pkgutil.iter_modules(package(name).__path__):
            assert not module.name.startswith(("util", "helper", "common", "misc"))
