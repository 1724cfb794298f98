"""The agents' directory: actors made on demand, retired only with an empty mailbox, and nothing lost between two."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from by_hand import Office
from commitcast.actors import AgentHandle, AgentRuntime, AgentStatus, BackpressureError, RuntimeStoppedError
from commitcast.actors.errors import FutureCancelledError
from commitcast.actors.kernel.actor import Actor
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.mailbox import Envelope
from commitcast.actors.messages import Complete, Emit, Start, Terminate
from commitcast.persistence import verify
from commitcast.persistence.records import MessageRecord
from stores import text
from waiting import TIMEOUT_S, wait_until


@pytest.fixture
def office() -> Office:
    office = Office()
    office.add("running")
    office.add("ended", AgentStatus.COMPLETED)
    return office


class TestRetiring:
    def test_the_actor_of_an_ended_agent_goes_when_its_last_message_is_acknowledged(self, office: Office) -> None:
        late = office.emit("ended", "late result")
        office.run()
        assert len(office.directory) == 1

        office.commit()
        office.run()

        assert late.get(0).content == "late result"
        assert len(office.directory) == 0

    def test_the_actor_of_an_agent_at_work_stays(self, office: Office) -> None:
        office.emit("running", "hello")
        office.run()
        office.commit()
        office.run()

        assert len(office.directory) == 1

    def test_an_actor_with_something_in_its_mailbox_is_not_retired(self, office: Office) -> None:
        office.emit("ended", "in the mailbox")
        actor = office.made[0]

        assert not office.directory.retire(actor)

        office.run()
        assert office.said == ["in the mailbox"] and len(office.made) == 1

    def test_an_actor_for_whose_agent_a_place_is_taken_is_not_retired(self, office: Office) -> None:
        """Somebody is about to send: its message should find the actor that is there."""
        office.emit("ended", "first")
        office.run()
        assert office.credit.try_acquire("ended", 1)

        office.commit()
        office.run()

        assert len(office.directory) == 1

    def test_what_reaches_a_retired_actor_is_handled_by_its_successor_in_order(self, office: Office) -> None:
        office.emit("ended", "first")
        retired = office.made[0]
        office.run()
        office.commit()
        office.run()
        assert not retired.actor_ref.is_alive()
        futures: list[Future[MessageRecord]] = []

        for number in range(3):  # as a sender does that had looked the actor up before it was retired
            message = text(f"late {number}")
            assert office.credit.try_acquire("ended", message.size)
            futures.append(Future())
            retired.actor_inbox.put(Envelope(Emit(message), futures[-1]))
        office.run()
        office.commit()
        office.run()

        assert office.said == ["first", "late 0", "late 1", "late 2"]
        assert [future.get(0).content for future in futures] == ["late 0", "late 1", "late 2"]
        assert len(office.made) == 2 and office.credit.messages == 0

    def test_an_actor_is_made_once_for_everything_that_is_said_to_an_unknown_agent(self, office: Office) -> None:
        for number in range(5):
            office.emit("nobody", str(number))

        office.run()

        assert len(office.made) == 1
        assert office.said == ["0", "1", "2", "3", "4"]  # for the database to refuse


class TestCrashing:
    def test_what_waits_behind_a_defect_is_handled_by_the_next_actor_and_what_was_begun_is_answered(
        self, office: Office
    ) -> None:
        begun = office.emit("running", "begun")
        office.run()
        office.crash("running")
        waiting = [office.emit("running", str(number)) for number in range(3)]

        office.run()
        assert isinstance(begun.exception(0), RuntimeStoppedError)
        assert not any(future.done() for future in waiting)
        assert office.credit.messages == 3

    def test_acknowledgements_of_the_earlier_actor_are_not_taken_by_the_later_one(self, office: Office) -> None:
        office.emit("running", "of the first")
        office.run()
        office.crash("running")
        of_the_second = office.emit("running", "of the second")
        early, office.database.heard = office.database.heard, []
        office.run()
        late, office.database.heard = office.database.heard, early

        office.commit()
        office.run()
        assert not of_the_second.done()

        office.database.heard, office.answered = late, 0
        office.commit()
        office.run()
        assert of_the_second.get(0).content == "of the second"
        assert office.credit.messages == 0

    def test_a_crash_with_an_empty_mailbox_leaves_no_dead_end(self, office: Office) -> None:
        office.emit("running", "begun")
        office.run()
        office.crash("running")
        office.run()

        office.emit("running", "next")
        office.run()

        assert office.said == ["begun", "next"] and len(office.directory) == 1

    def test_what_is_redelivered_stays_before_what_the_same_sender_says_next(self) -> None:
        office = Office()
        office.add("a")
        office.emit("a", "b0")
        office.run()
        office.crash("a")
        for content in ("b1", "a1"):
            office.emit("a", content)
        sending: list[threading.Thread] = []

        def while_it_is_redelivered(actor: Actor) -> None:
            if len(office.made) == 2 and not sending:
                sending.append(threading.Thread(target=office.emit, args=("a", "a2")))
                sending[0].start()
                sending[0].join(0.2)

        office.dispatcher.on_schedule = while_it_is_redelivered
        office.run()
        sending[0].join(TIMEOUT_S)
        office.run()
        office.commit()
        office.run()

        assert office.said == ["b0", "b1", "a1", "a2"]


class TestCancelling:
    def test_a_cancelled_emit_is_not_stored_and_its_place_is_given_back(self) -> None:
        office = Office(agent_messages=2)
        office.add("a")
        _, second = office.emit("a", "first"), office.emit("a", "second")
        assert not office.credit.try_acquire("a", 1)

        assert second.cancel()
        office.run()

        assert office.said == ["first"]
        assert isinstance(second.exception(0), FutureCancelledError)
        assert office.emit("a", "there is room").done() is False

    def test_what_is_on_its_way_to_the_database_is_stored_however_late_it_is_cancelled(self, office: Office) -> None:
        future = office.emit("running", "on its way")
        office.run()

        future.cancel()
        office.commit()
        office.run()

        assert future.get(0).content == "on its way"
        assert office.credit.messages == 0

    def test_a_cancelled_message_leaves_no_hole(self, agent_runtime: AgentRuntime) -> None:
        agent = agent_runtime.launch()

        futures = [agent.emit(str(number)) for number in range(1_000)]
        for future in futures[::2]:
            future.cancel()
        cancelled = {
            n for n, future in enumerate(futures) if isinstance(future.exception(TIMEOUT_S), FutureCancelledError)
        }
        kept = [future.get(0) for number, future in enumerate(futures) if number not in cancelled]

        assert [record.sequence for record in kept] == list(range(1, len(kept) + 1))
        assert [record.content for record in kept] == [str(n) for n in range(1_000) if n not in cancelled]
        assert agent.record().head == len(kept)
        wait_until(lambda: agent_runtime.stats().unacknowledged_messages == 0, "every place to be given back")

    def test_a_cancelled_emit_does_not_keep_those_behind_it_from_being_refused_at_the_stop(self) -> None:
        office = Office()
        office.add("a")
        office.emit("a", "before")
        office.run()
        office.crash("a")
        cancelled, behind = office.emit("a", "taken back"), office.emit("a", "behind it")
        cancelled.cancel()
        office.directory.end_all(Terminate(), deadline=0)

        office.run()

        assert behind.done()
        assert office.credit.messages == 0


class TestTheStop:
    def test_after_it_everything_is_refused_and_every_place_given_back(self, office: Office) -> None:
        office.emit("running", "before")
        office.run()
        office.directory.end_all(Terminate(), deadline=0)

        after = office.emit("running", "after")
        unknown = office.emit("nobody", "after")
        start = office.directory.ask("running", Start())

        assert all(isinstance(future.exception(0), RuntimeStoppedError) for future in (after, unknown, start))
        assert office.credit.messages == 1  # the one on its way to the database

    def test_what_was_told_to_nobody_is_a_dead_letter(self, office: Office) -> None:
        assert not office.directory.tell("nobody", Complete())

        letters = office.dispatcher.dead_letters.latest
        assert [(letter.actor, letter.message) for letter in letters] == [("AgentActor-nobody", "Complete")]


class TestRaces:
    def test_emits_to_agents_that_end_and_are_made_again_are_all_stored_in_each_senders_order(
        self, tmp_path: Path
    ) -> None:
        """The actor of an ended agent is retired whenever nothing is on its way, and made again by the next emit."""
        with AgentRuntime(tmp_path / "a.db") as runtime:
            agents = runtime.launch_many(4)
            for agent in agents:
                agent.terminate().get(TIMEOUT_S)

            def send(sender: int) -> list[Future[MessageRecord]]:
                futures = []
                for number in range(250):
                    futures.append(agents[number % 4].emit(f"{sender}:{number}"))
                    if number % 25 == 0:
                        futures[-1].get(TIMEOUT_S)  # lets the actors retire
                return futures

            with ThreadPoolExecutor(6) as pool:
                sent = list(pool.map(send, range(6)))
            records = [[future.get(TIMEOUT_S) for future in futures] for futures in sent]

            for sender, of_sender in enumerate(records):
                assert [record.content for record in of_sender] == [f"{sender}:{number}" for number in range(250)]
                for agent in agents:
                    sequences = [record.sequence for record in of_sender if record.agent == agent.id]
                    assert sequences == sorted(sequences)
            wait_until(lambda: runtime.stats().agents == 0, "every actor to be retired", show=runtime.stats)
            assert runtime.stats().unacknowledged_messages == runtime.stats().dead_letters == 0
        found = verify(tmp_path / "a.db")
        assert found.is_sound and found.messages == 1_500

    def test_emits_that_race_with_the_stop_of_the_runtime_are_stored_or_refused(self, tmp_path: Path) -> None:
        for number in range(3):
            path = tmp_path / f"{number}.db"
            runtime = AgentRuntime(path, emit_timeout_s=0).start()
            agent = runtime.launch()
            begun = threading.Barrier(4)

            def send(sender: int, agent: AgentHandle = agent, begun: Any = begun) -> list[Future[MessageRecord]]:
                begun.wait(TIMEOUT_S)
                futures: list[Future[MessageRecord]] = []
                while not (futures and futures[-1].done() and futures[-1].exception(0)):
                    try:
                        futures.append(agent.emit(f"{sender}:{len(futures)}"))
                    except BackpressureError:
                        continue
                return futures

            with ThreadPoolExecutor(3) as pool:
                sending = [pool.submit(send, sender) for sender in range(3)]
                begun.wait(TIMEOUT_S)
                runtime.stop()
                sent = [future for futures in sending for future in futures.result(TIMEOUT_S)]

            stored = [future.get(0) for future in sent if future.exception(TIMEOUT_S) is None]
            refused = {type(error) for future in sent if (error := future.exception(0)) is not None}
            assert refused == {RuntimeStoppedError}
            found = verify(path)
            assert found.is_sound and found.messages == len(stored)
