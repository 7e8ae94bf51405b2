"""Which answer is asked for, running, unwanted or still owed."""

from gateway.answers import BUSY_LIMIT, TOOL_ROUNDS_LIMIT, Answers
from gateway.events import CreateResponse

GREETING = CreateResponse("Say hello.")
PLAIN = CreateResponse()


def _running(response_id: str = "resp_1") -> Answers:
    answers = Answers()
    answers.ask(PLAIN)
    answers.started(response_id)
    return answers


def test_nothing_is_pending_at_first() -> None:
    """A fresh call owes nobody an answer."""
    assert not Answers().is_pending


def test_an_idle_model_is_asked_at_once() -> None:
    """With nothing running, a question goes straight out and is pending."""
    answers = Answers()

    assert answers.ask(GREETING) == [GREETING]
    assert answers.is_pending


def test_a_question_waits_for_the_running_answer() -> None:
    """One answer runs at a time: the next question goes out when it is done."""
    answers = _running()

    assert answers.ask(GREETING) == []
    assert answers.done() == [GREETING]


def test_a_question_waits_for_one_that_has_not_started() -> None:
    """Two questions in a row do not collide at the service."""
    answers = Answers()
    answers.ask(PLAIN)

    assert answers.ask(GREETING) == []
    assert answers.started("resp_1")
    assert answers.done() == [GREETING]


def test_only_the_latest_waiting_question_is_kept() -> None:
    """Questions that pile up are answered once."""
    answers = _running()
    answers.ask(PLAIN)
    answers.ask(GREETING)

    assert answers.done() == [GREETING]
    assert answers.started("resp_2")
    assert answers.done() == []
    assert not answers.is_pending


def test_an_answer_of_the_service_itself_is_followed() -> None:
    """Voice detection starts answers nobody asked for; they run and end like ours."""
    answers = Answers()

    assert answers.started("resp_vad")
    assert (answers.active, answers.latest, answers.is_pending) == ("resp_vad", "resp_vad", True)
    assert answers.done() == []
    assert (answers.active, answers.latest, answers.is_pending) == ("", "resp_vad", False)


def test_the_end_of_another_answer_changes_nothing() -> None:
    """A late end of an older answer does not end the running one."""
    answers = _running("resp_2")

    assert answers.is_stale("resp_1")
    assert not answers.is_stale("resp_2")
    answers.done()
    assert answers.is_stale("resp_2")


def test_an_interruption_names_the_running_answer() -> None:
    """What has to be cancelled is known by id, and nothing is owed any more."""
    answers = _running()
    answers.ask(GREETING)
    answers.tool_called()

    assert answers.interrupt() == "resp_1"
    assert answers.done() == []
    assert not answers.is_pending


def test_an_answer_interrupted_before_it_began_is_unwanted() -> None:
    """A cancel has no effect before response.created: the answer is refused when it comes."""
    answers = Answers()
    answers.ask(PLAIN)

    assert answers.interrupt() == ""
    assert not answers.started("resp_1")
    assert answers.active == "resp_1"


def test_only_one_answer_is_unwanted() -> None:
    """The answer after an unwanted one is wanted again."""
    answers = Answers()
    answers.ask(PLAIN)
    answers.interrupt()
    answers.started("resp_1")
    answers.done()

    assert answers.started("resp_2")


def test_an_answer_of_the_service_is_wanted_after_an_interruption() -> None:
    """An interruption with nothing asked for condemns nothing."""
    answers = Answers()
    answers.interrupt()

    assert answers.started("resp_vad")


def test_a_refused_question_waits_for_the_answer_that_was_in_its_way() -> None:
    """A create that met a running response is sent when that is done."""
    answers = Answers()
    answers.ask(PLAIN)
    answers.started("resp_vad")

    assert answers.refused(is_ours=True) == []
    assert answers.done() == [PLAIN]


def test_a_refused_question_goes_out_when_the_way_is_free() -> None:
    """When the other answer ended before we hear of the refusal, nobody waits for its end."""
    answers = Answers()
    answers.ask(PLAIN)
    answers.started("resp_vad")
    answers.done()

    assert answers.refused(is_ours=True) == [PLAIN]


def test_a_refused_question_keeps_its_instructions() -> None:
    """A greeting that met another answer is still a greeting when it is asked again."""
    answers = Answers()
    answers.ask(GREETING)

    assert answers.refused(is_ours=True) == [GREETING]


def test_refusals_are_bounded() -> None:
    """A service that only ever says busy is not asked for ever."""
    answers = Answers()
    answers.ask(PLAIN)
    tries = 0
    while answers.refused(is_ours=True):
        tries += 1

    assert tries == BUSY_LIMIT
    assert not answers.is_pending


def test_a_refused_question_that_was_interrupted_is_forgotten() -> None:
    """The caller took the turn meanwhile: asking again would talk over them."""
    answers = Answers()
    answers.ask(PLAIN)
    answers.interrupt()

    assert answers.refused(is_ours=True) == []
    assert not answers.is_pending
    assert answers.started("resp_vad")


def test_a_tool_call_owes_an_answer_after_the_present_one() -> None:
    """The model is asked to go on once the response with the call is done."""
    answers = _running()

    assert answers.tool_called()
    assert answers.is_pending
    assert answers.done() == [PLAIN]


def test_a_tool_answer_comes_before_a_waiting_question() -> None:
    """One response.create serves both the tool call and the question."""
    answers = _running()
    answers.ask(GREETING)
    answers.tool_called()

    assert answers.done() == [PLAIN]
    answers.started("resp_2")
    assert answers.done() == []


def test_tool_rounds_are_bounded() -> None:
    """A model that calls tools for ever is left alone after a few rounds."""
    answers = _running("resp_0")
    rounds = 0
    while answers.tool_called() and answers.done():
        rounds += 1
        answers.started(f"resp_{rounds}")

    assert rounds == TOOL_ROUNDS_LIMIT


def test_tool_calls_of_one_answer_are_one_round() -> None:
    """A model that asks for many things at once is not taken for one that goes in circles."""
    answers = _running()
    for _ in range(TOOL_ROUNDS_LIMIT + 1):
        answers.tool_called()

    assert answers.done() == [PLAIN]


def test_sound_forgives_what_failed_before() -> None:
    """Tool rounds, failures and refusals count in a row only: an audible answer ends the row."""
    answers = _running()
    answers.failures = 1
    for _ in range(TOOL_ROUNDS_LIMIT):
        answers.tool_called()
        answers.done()
        answers.started("resp_n")
    answers.sounded("resp_1")

    assert answers.has_sound
    assert answers.failures == 0
    assert answers.tool_called()


def test_a_new_answer_has_no_sound_yet() -> None:
    """Each answer is judged by its own sound."""
    answers = _running()
    answers.sounded("resp_1")
    answers.done()
    answers.started("resp_2")

    assert not answers.has_sound
