"""The machine in words."""

import json
import platform

from gateway.bench.machine import describe, this_machine


def test_the_processor_is_named_from_what_the_kernel_says() -> None:
    """By its model, else by its architecture."""
    named = describe("processor : 0\nmodel name\t: Fast One\n", {"uvloop": "0.22"})

    assert named["cpu"] == "Fast One"
    assert named["uvloop"]
    assert describe("", {})["cpu"] == platform.machine()
    assert not describe("", {})["uvloop"]


def test_this_machine_can_be_written_down() -> None:
    """With the libraries that matter."""
    found = json.loads(json.dumps(this_machine()))

    assert found["cores"] >= 1
    assert {"aiohttp", "websockets", "msgspec"} <= set(found["libraries"])
