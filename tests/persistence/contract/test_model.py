"""Random batches of everything against a simple model: what is stored does not depend on where batches are cut."""

from typing import Final

import pytest
from hypothesis import given, settings

from databases import DATABASES, IN_SERVER
from modes import DRAWN
from store_model import Batches, batches, check_batches

EXAMPLES: Final = {"sqlite in memory": 80, IN_SERVER: 4}
"""Of kinds that take much shorter or longer than others."""


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=DRAWN if kind == IN_SERVER else []) for kind in DATABASES])
def test_any_batches_with_restarts_are_stored_as_the_model_says_and_verify(
    tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    @settings(max_examples=EXAMPLES.get(kind, 12), deadline=None)
    @given(batches)
    def check(work: Batches) -> None:
        check_batches(DATABASES[kind](tmp_path_factory.mktemp("model")), work)

    check()
