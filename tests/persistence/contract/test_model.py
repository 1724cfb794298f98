"""Random batches of everything against a simple model: what is stored does not depend on where batches are cut."""

import pytest
from hypothesis import given, settings

from databases import DATABASES
from store_model import Batches, batches, check_batches


@pytest.mark.parametrize("kind", DATABASES)
def test_any_batches_with_restarts_are_stored_as_the_model_says_and_verify(
    tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    @settings(max_examples=12 if DATABASES[kind].is_durable else 80, deadline=None)
    @given(batches)
    def check(work: Batches) -> None:
        check_batches(DATABASES[kind](tmp_path_factory.mktemp("model")), work)

    check()
