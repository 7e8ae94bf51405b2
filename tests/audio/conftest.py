"""Both converters, one after the other: what holds of the one must hold of the other."""

import os
from collections.abc import Iterator

import pytest

from gateway.audio import compiled
from tests.audio.figures import measured


def demand_compiled() -> None:
    """Skip where the compiled converter was not built; fail where it is required."""
    if compiled.IS_BUILT:
        return
    reason = "no compiled converter: apt-get install gcc libc6-dev python3-dev, then `make clean`"
    if "compiler" in os.environ.get("GATEWAY_TESTS_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module", params=["numpy", "compiled"])
def each_converter(request: pytest.FixtureRequest) -> Iterator[str]:
    """The tests of a module on each converter in turn."""
    if request.param == "compiled":
        demand_compiled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "IS_BUILT", request.param == "compiled")
        measured.cache_clear()
        yield request.param
    measured.cache_clear()
