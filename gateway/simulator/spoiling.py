"""What faults make of a reply before it is spoken."""

from dataclasses import replace

from gateway.simulator.agents import Part, Reply, Speech, ToolCall, Writing
from gateway.simulator.faults import Faults


def spoiled(reply: Reply, faults: Faults) -> Reply:
    """The reply after the faults that change what is said."""
    parts = reply.parts
    if faults.extra_items:
        parts = (*parts, *parts, ToolCall("first_tool", "{}"), ToolCall("second_tool", "{}"))
    if faults.unknown_tool:
        parts = (ToolCall("no_such_tool", '{"n": 1}'),)
    parts = tuple(_spoiled_part(part, faults) for part in parts)
    fail = faults.fail_response or reply.fail
    incomplete = faults.incomplete_response or reply.incomplete
    parts = () if fail else parts
    if incomplete:
        parts = tuple(_half(part) for part in parts)
    return replace(reply, parts=parts, fail=fail, incomplete=incomplete)


def in_text(reply: Reply) -> Reply:
    """The reply in writing, for a session whose output is text."""
    written = [Writing(part.text) if isinstance(part, Speech) else part for part in reply.parts]
    return replace(reply, parts=tuple(written))


def _spoiled_part(part: Part, faults: Faults) -> Part:
    if faults.text_answers and isinstance(part, Speech):
        return Writing(part.text)
    if faults.long_arguments_bytes and isinstance(part, ToolCall):
        return replace(part, arguments=f'{{"padding": "{"x" * faults.long_arguments_bytes}"}}')
    return part


def _half(part: Part) -> Part:
    if isinstance(part, Speech):
        # On a sample's boundary.
        return Speech(part.pcm[: len(part.pcm) // 4 * 2], part.text[: len(part.text) // 2])
    return part
