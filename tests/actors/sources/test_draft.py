"""The text of an error that ends an agent is kept as it can be stored, and not beyond a limit."""

from commitcast.actors.sources.draft import MAX_ERROR_CHARACTERS, Ending, clean_error


def test_an_error_text_beyond_the_limit_is_cut_off_and_says_so() -> None:
    longest = "x" * MAX_ERROR_CHARACTERS

    assert clean_error(longest) == longest
    assert clean_error(longest + "yz") == longest + "…"
    assert Ending.of(ValueError(longest + "yz")).error_message == longest + "…"


def test_a_lone_surrogate_in_an_error_text_becomes_the_replacement_character() -> None:
    assert clean_error("no \ud800") == "no \ufffd"
