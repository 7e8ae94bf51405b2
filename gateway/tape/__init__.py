"""Tapes: one call as it was on the wire, one JSON object a line.

=======  ==========================================================================================
first    ``{"tape": 1, "gateway": version, "provider", "dialect", "started_at": UTC, "call_id",
         "agent", "unix_offset_s", "query", "settings"}``. ``unix_offset_s`` is what makes unix time
         of a ``t``. ``query`` is what the provider's stream was made from, beside its messages.
         ``settings`` holds what changes behaviour, and no secret: ``call`` (``CallOptions``; of a
         recorded prompt its length in bytes), ``start_deadline_s``, ``send_timeout_s``.
         ``masks``: what was hidden, ["secrets", "numbers"] or ["secrets"]. ``sounds``: the
         operator's own prompts by name, ``audio`` of each zlib's of 24 kHz PCM in base64.
         ``trace_id``: of OpenTelemetry, where calls are traced.
         Not as it was recorded: ``renewed_by`` (a gateway's version), ``renewed_at`` (UTC): what
         went out is what that gateway made of what came in; ``shrunk_by``, ``shrunk_at``: parts
         were left out.
message  ``{"t", "link": "provider"|"realtime", "dir": "in"|"out", "kind": "text"|"binary",
         "data"}``, in the order of the wire; binary is base64.
event    The same without ``data``, of another kind:

         - ``closed``: ``code``, ``reason``; "in" when the peer left, "out" when we closed;
         - ``dialled`` ("out"): ``timeout_s``, ``with_fresh_token``; and what came of it ("in"):
           ``opened`` (``took_s``) or ``refused`` (``result``, ``can_retry``, ``retry_after_s``,
           ``detail``);
         - ``clogged``, ``freed`` ("in"): the peer takes no more for now, and does again;
         - ``shut`` ("in"): the socket is closed, though its end was not told yet; what is sent is
           lost.
mark     ``{"t", "began": true}``: the call was admitted; what stands above is from before it.
         ``{"t", "hang_up": reason}``: ended from outside, by drain or operator.
         ``{"t", "stopped": true}``: ended at once, for the gateway's process went.
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

Names. While it grows a tape is called ``NAME.jsonl.part``, then ``NAME.jsonl``, and once it is
compressed (gzip) ``NAME.jsonl.gz``. A part that nobody holds a lock on was left behind by a crash
and can be read up to its last whole line. NAME is the time (UTC) and our id of the call.

Private. A tape holds both voices and what was said: personal data. It can be read by its owner
alone (mode 0600). Secrets are hidden always: our own, the call's token, what looks like a key or is
called a secret. Digits are hidden (``1`` each) in every text: phone and card numbers, keys pressed,
transcripts, arguments of tools, instructions (``gateway.tape.masking``). Names and numbers spoken
in words are not hidden, and a voice is a voice.

Announced. Where a caller is told first that the call is recorded, nothing is written before that
was heard to its end. Of the time before a tape then holds all but the caller: silence of the same
length, and of every key that it was one.
"""

from typing import Final

FORMAT: Final = 1
# What the files of whole tapes end with.
SUFFIXES: Final = (".jsonl", ".jsonl.gz")
