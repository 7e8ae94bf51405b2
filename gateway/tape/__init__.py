"""Tapes: one call as it was on the wire, one JSON object a line.

=======  ==========================================================================================
first    ``{"tape": 1, "gateway": version, "provider", "dialect", "started_at": UTC, "call_id",
         "agent", "unix_offset_s", "query", "settings"}``. ``unix_offset_s`` is what makes unix time
         of a ``t``. ``query`` is what the provider's stream was made from, beside its messages.
         ``settings`` holds what changes behaviour, and no secret: ``call`` (``CallOptions``; of a
         recorded prompt its length in bytes), ``start_deadline_s``, ``send_timeout_s``.
message  ``{"t", "link": "provider"|"realtime", "dir": "in"|"out", "kind": "text"|"binary",
         "data"}``, in the order of the wire; binary is base64.
event    The same without ``data``, of another kind:

         - ``closed``: ``code``, ``reason``; "in" when the peer left, "out" when we closed;
         - ``dialled`` ("out"): ``timeout_s``, ``with_fresh_token``; and what came of it ("in"):
           ``opened`` (``took_s``) or ``refused`` (``result``, ``can_retry``, ``retry_after_s``,
           ``detail``);
         - ``clogged``, ``freed`` ("in"): the peer takes no more for now, and does again.
mark     ``{"t", "began": true}``: the call was admitted; what stands above is from before it.
         ``{"t", "hang_up": reason}``: ended from outside, by drain or operator.
         ``{"t", "rang": true}``: a timer rang, and nothing came of it that could be seen.
gap      ``{"t", "lost": n}``: here n lines are missing, the disk was too slow.
last     ``{"t", "end": {"result", "reason"}, "lost": n}`` with all that was lost, or
         ``{"t", "cut": {"max_bytes": n}, "lost": n}`` where the tape became too long.
=======  ==========================================================================================

Time. ``t`` is in seconds since the media socket was accepted, in whole microseconds. A call works
in passes: something came in, or a timer rang, and all that is decided is decided at the time at
which the pass began, which is the ``t`` of all its lines and the number the call itself was given.
So lines "out" with the ``t`` of the line "in" above them are its doing; with a later one they are a
timer's. ``dialled`` and "out" ``closed`` take their time and belong to no pass.

Names. While it grows a tape is called ``NAME.jsonl.part``, and ``NAME.jsonl`` once it is whole. A
part left behind by a crash can be read up to its last whole line.

Private. A tape holds both voices and what was said: personal data. It can be read by its owner
alone (mode 0600). Hidden are the call's token (``***``) and, in the start message and the query,
phone numbers (all but the last digits); authorization never comes this way, it is in HTTP headers.
Not hidden are keys pressed, transcripts, and the agent's instructions.
"""

from typing import Final

FORMAT: Final = 1
# What the files of whole tapes end with.
SUFFIXES: Final = (".jsonl", ".jsonl.gz")
