"""What people and scripts get to see."""

import json

from gateway.bench import report
from tests.bench.samples import findings, measured


def test_a_step_is_one_line_that_names_every_reason() -> None:
    """For the progress on standard error."""
    text = report.line(measured(lost=2, stale_messages=5))

    assert "\n" not in text
    assert "calls lost: 2; audio after clear: 5 messages" in text


def test_the_table_has_a_row_for_every_step() -> None:
    """All rows are as wide as the heading."""
    rows = report.table(findings())

    assert [row[:3] for row in rows[1:3]] == [("ramp", "100", "passed"), ("ramp", "200", "failed")]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert rows[1][4] == "0.20/1.50/3.00"


def test_what_could_not_be_seen_is_a_dash() -> None:
    """Somebody else's gateway without its process."""
    found = findings()
    found.steps[:] = [measured(cpu_ms_per_call_s=None, cpu_share=None, memory_kib=None)]

    assert report.table(found)[1][3] == report.table(found)[1][7] == "-"


def test_the_conclusion_names_the_number_or_the_refusal() -> None:
    """Never both silently."""
    found = findings()
    concluded = report.conclusion(found)
    found.capacity, found.refusal = None, "the load side gave out at 300 calls"

    assert "calls one core carries: 100" in concluded
    assert any("4.00/9.00/12.00" in text for text in concluded)
    assert report.conclusion(found)[0] == "no conclusion: the load side gave out at 300 calls"


def test_the_json_holds_all_steps_and_where_they_ran() -> None:
    """And can be written."""
    values = json.loads(json.dumps(report.as_json(findings(), {"cpu": "a"}, "gateway bench")))

    assert values["calls_per_core"] == 100
    assert values["machine"] == {"cpu": "a"}
    assert len(values["steps"]) == 5
    assert values["steps"][1]["reasons"] == ["uplink p99 44.0 ms > 20 ms"]
    assert values["steps"][0]["memory_per_call_kib"] == 200.0
    assert values["setup"]["setup"]["p99_ms"] == 9.0


def test_all_of_them_say_whether_links_were_encrypted() -> None:
    """Table, conclusion, JSON and certificate; a number over TLS is another number."""
    found = findings()
    plain = [row[-1] for row in report.table(found)]
    found.has_tls = True
    encrypted = [row[-1] for row in report.table(found)]

    assert plain == ["links", *["ws"] * 5]
    assert encrypted == ["links", *["wss"] * 5]
    assert report.conclusion(found)[0] == "calls one core carries: 100 (TLS on both sides)"
    assert report.as_json(found, {}, "")["tls"]
    assert report.certificate(found, {}, "", "")["tls"]


def test_a_number_with_tapes_says_so() -> None:
    """Conclusion, JSON and certificate, beside TLS or alone."""
    found = findings()
    found.has_tapes = True
    taped = report.conclusion(found)[0]
    found.has_tls = True

    assert taped == "calls one core carries: 100 (every call taped)"
    assert report.conclusion(found)[0].endswith(" (TLS on both sides, every call taped)")
    assert report.as_json(found, {}, "")["tape"]
    assert report.certificate(found, {}, "", "")["tape"]


def test_the_certificate_is_what_the_setting_reads() -> None:
    """Its members are a contract."""
    made = report.certificate(findings(), {"cpu": "a"}, "1.2.3", "2026-11-21T12:00:00+00:00")

    assert made == {
        "version": 1,
        "calls_per_core": 100,
        "tls": False,
        "tape": False,
        "machine": {"cpu": "a"},
        "gateway": "1.2.3",
        "measured_at": "2026-11-21T12:00:00+00:00",
    }
