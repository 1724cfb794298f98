import inspect

import pytest

from commitcast.persistence.deprecation import renamed_argument


@renamed_argument("timeout_s", "timeout")
def wait(timeout: float | None = None) -> float | None:
    """Wait."""
    return timeout


class Waiter:
    """Waits."""

    @renamed_argument("timeout_s", "timeout")
    def __init__(self, timeout: float) -> None:
        self.timeout = timeout


class TestRenamedArgument:
    def test_the_new_name_is_taken_without_a_warning(self) -> None:
        assert (wait(timeout=1.5), wait(2.5), wait()) == (1.5, 2.5, None)

    def test_the_old_name_means_the_same_and_warns(self) -> None:
        old: dict[str, float] = {"timeout_s": 1.5}

        with pytest.warns(DeprecationWarning, match=r"'timeout_s' of wait\(\) is now called 'timeout'"):
            assert wait(**old) == 1.5

    def test_of_a_constructor_the_class_is_named(self) -> None:
        old: dict[str, float] = {"timeout_s": 1.5}

        with pytest.warns(DeprecationWarning, match=r"of Waiter\(\) is now called 'timeout'"):
            assert Waiter(**old).timeout == 1.5

    def test_both_names_at_once_are_refused(self) -> None:
        both: dict[str, float] = {"timeout": 1.0, "timeout_s": 1.0}

        with pytest.raises(TypeError, match="both"):
            wait(**both)

    def test_the_signature_shows_the_new_name_alone(self) -> None:
        assert list(inspect.signature(wait).parameters) == ["timeout"]
