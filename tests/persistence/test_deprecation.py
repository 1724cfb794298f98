import importlib
import inspect

import pytest

from commitcast.persistence.deprecation import renamed_argument
from commitcast.persistence.store import ResolvedCursor
from stores import new_agent, of, opened


@renamed_argument("timeout_s", "timeout")
def wait(timeout: float | None = None, *, timeout_s: float | None = None) -> float | None:
    """Wait."""
    return timeout


class Waiter:
    """Waits."""

    @renamed_argument("timeout_s", "timeout")
    def __init__(self, timeout: float = 0.0, *, timeout_s: float | None = None) -> None:
        self.timeout = timeout


class TestRenamedArgument:
    def test_the_new_name_is_taken_without_a_warning(self) -> None:
        assert (wait(timeout=1.5), wait(2.5), wait()) == (1.5, 2.5, None)

    def test_the_old_name_means_the_same_and_warns(self) -> None:
        with pytest.warns(DeprecationWarning, match=r"'timeout_s' of wait\(\) is now called 'timeout'"):
            assert wait(timeout_s=1.5) == 1.5

    def test_of_a_constructor_the_class_is_named(self) -> None:
        with pytest.warns(DeprecationWarning, match=r"of Waiter\(\) is now called 'timeout'"):
            assert Waiter(timeout_s=1.5).timeout == 1.5

    def test_both_names_at_once_are_refused(self) -> None:
        with pytest.raises(TypeError, match="both"):
            wait(timeout=1.0, timeout_s=1.0)
        with pytest.raises(TypeError, match="both"):
            wait(1.0, timeout_s=1.0)

    def test_the_signature_shows_the_new_name_alone(self) -> None:
        assert list(inspect.signature(wait).parameters) == ["timeout"]


class TestRenamedNames:
    def test_an_attribute_and_a_method_are_found_by_their_old_names_and_warn(self) -> None:
        with opened(":memory:") as store:
            [outcome] = store.commit([of("a", new_agent())])
            assert outcome.committed is not None
            with pytest.warns(DeprecationWarning, match="Committed.follows is now called 'previous_entry_position'"):
                assert outcome.committed.follows == 0
            with pytest.warns(DeprecationWarning, match="SqliteStore.standing is now called 'resolve_cursor'"):
                assert store.standing("a", None) == store.resolve_cursor("a", None)

    def test_a_class_is_found_in_its_module_by_its_old_name_and_warns(self) -> None:
        module = importlib.import_module("commitcast.persistence.store")

        with pytest.warns(DeprecationWarning, match="store.Standing is now called 'ResolvedCursor'"):
            assert module.Standing is ResolvedCursor
        with pytest.raises(AttributeError, match="has no attribute 'Ghost'"):
            _ = module.Ghost
