"""What is told of a call."""

import pytest

from gateway.events import ULAW_8K
from gateway.simulator.callreport import CallReport, TurnReport, turn_reports
from gateway.simulator.phone import Span


def test_answers_belong_to_the_utterance_before_them() -> None:
    """An answer counts from the utterance's end and only up to the next utterance."""
    reports = turn_reports([(1.0, 2.0), (3.0, 4.0)], [(2.5, 2.9), (4.25, 6.0)])
    assert reports == (
        TurnReport(1.0, 2.0, 0.5, is_barge_in=False, silenced_after_s=None),
        TurnReport(3.0, 4.0, 0.25, is_barge_in=False, silenced_after_s=None),
    )


def test_a_caller_who_says_nothing() -> None:
    """No utterance, no report, however much the agent says."""
    assert turn_reports([], [(0.5, 1.25)]) == ()


def test_a_barge_in_that_silences_the_agent() -> None:
    """The agent was heard 0.25 s into the utterance."""
    (report,) = turn_reports([(1.0, 2.0)], [(0.5, 1.25)])
    assert report == TurnReport(1.0, 2.0, None, is_barge_in=True, silenced_after_s=0.25)


def test_a_barge_in_that_does_not() -> None:
    """An agent that speaks on through the whole utterance was not silenced."""
    (report,) = turn_reports([(1.0, 2.0)], [(0.5, 2.5)])
    assert report.is_barge_in
    assert report.silenced_after_s is None


def report_of(played: bytes, spans: tuple[Span, ...], turns: tuple[TurnReport, ...]) -> CallReport:
    """A report about these sounds."""
    return CallReport(
        provider="twilio",
        audio=ULAW_8K,
        duration_s=1.0,
        sent=b"\xff" * 8000,
        sent_ms=1000,
        played=played,
        played_ms=len(played) / 8,
        received_ms=len(played) / 8,
        cleared_ms=0,
        dropped_ms=0,
        spans=spans,
        turns=turns,
        moments=(),
        dtmf=(),
        first_audio_s=None,
        close_code=1000,
        ended_by="caller",
        lateness_ms=0,
    )


def test_tracks_keep_the_gaps() -> None:
    """The agent's sounds lie in the track where the caller heard them."""
    spans = (Span(0.1, 0, 80), Span(0.5, 80, 80))
    caller, agent = report_of(b"\x00" * 160, spans, ()).tracks(8000)
    assert len(caller) == 16000
    assert len(agent) == round(0.51 * 16000)
    loud = [index for index in range(0, len(agent), 160) if any(agent[index : index + 160])]
    assert loud == [1600, 8000]


def test_barge_ins_of_a_report() -> None:
    """Only barge-ins that silenced the agent have a time."""
    turns = turn_reports([(1.0, 2.0), (3.0, 4.0)], [(0.5, 1.25), (2.5, 4.5)])
    assert report_of(b"", (), turns).barge_in_s == pytest.approx((0.25,))
