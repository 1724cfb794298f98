"""Dead letters: every one is counted, the latest are named, and nothing of what they said is kept."""

from concurrent.futures import ThreadPoolExecutor

from by_hand import HandDispatcher, Listener
from commitcast.actors.kernel.deadletters import REMEMBERED, DeadLetter, DeadLetters
from commitcast.actors.messages import Terminate


def test_they_are_counted_and_named_oldest_first() -> None:
    letters = DeadLetters()

    letters.add("one", "a secret", "it had stopped")
    letters.add("two", Terminate(), "there is none")

    assert letters.count == 2
    assert letters.latest == (
        DeadLetter("one", "str", "it had stopped"),
        DeadLetter("two", "Terminate", "there is none"),
    )


def test_only_the_latest_are_kept_while_all_are_counted() -> None:
    letters = DeadLetters()

    for number in range(REMEMBERED + 10):
        letters.add(str(number), None, "")

    assert letters.count == REMEMBERED + 10
    assert [letter.actor for letter in letters.latest] == [str(number) for number in range(10, REMEMBERED + 10)]


def test_none_is_lost_when_many_threads_add() -> None:
    letters = DeadLetters()

    def add(_: int) -> None:
        for _ in range(500):
            letters.add("a", None, "")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))

    assert letters.count == 4_000


def test_what_was_told_to_an_actor_that_stops_before_it_is_one_and_what_was_asked_is_none() -> None:
    dispatcher = HandDispatcher()
    actor = Listener("a", dispatcher)
    actor.begin()
    actor.actor_ref.tell(ValueError("a defect"))
    actor.actor_ref.tell("told")
    asked = actor.actor_ref.ask("asked", block=False)

    dispatcher.run()

    assert asked.done()
    letters = dispatcher.dead_letters.latest
    assert [(letter.message, letter.reason) for letter in letters] == [("str", "the actor had stopped")]
    assert letters[0].actor.startswith("Listener-a ")
