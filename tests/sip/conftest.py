"""What a test with a real phone call asks for: a PBX, phones, and a reason when there is none."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import NoReturn

import pytest

from tests.sip.pbx import Pbx, PbxOptions, running_pbx
from tests.sip.phone import Phone, ready_phone

_HERE = Path(__file__).parent
_CACHE = Path(os.environ.get("GATEWAY_TEST_CACHE") or _HERE.parents[1] / ".cache")
# 80 MB once, then nothing.
_FETCH_S = 600

StartPbx = Callable[[PbxOptions], Awaitable[Pbx]]
StartPhone = Callable[[bytes], Awaitable[Phone]]


def _missing(reason: str) -> NoReturn:
    """Skip, in plain sight; fail where the run was set up to have everything (CI)."""
    if "asterisk" in os.environ.get("GATEWAY_TESTS_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def asterisk_root() -> Path:
    """The folder with an Asterisk in it, fetched once and kept between runs."""
    if shutil.which("baresip") is None:
        _missing("there is no phone to call with: apt-get install baresip-core")
    root = _CACHE.resolve() / "asterisk"
    fetched = subprocess.run(
        [str(_HERE / "fetch_asterisk.sh"), str(root)],
        check=False,
        capture_output=True,
        text=True,
        timeout=_FETCH_S,
    )
    if fetched.returncode:
        _missing(fetched.stderr.strip() or "fetch_asterisk.sh failed")
    # baresip makes no calls with loopback alone; here the kernel lists the routes of all others.
    if len(Path("/proc/net/route").read_text("ascii").splitlines()) < 2:
        _missing("the phone (baresip) wants a network interface besides loopback")
    return root


@pytest.fixture
async def start_pbx(asterisk_root: Path, tmp_path: Path) -> AsyncIterator[StartPbx]:
    """Start an Asterisk that dials the gateway; it is stopped after the test."""
    async with AsyncExitStack() as stack:

        async def start(options: PbxOptions) -> Pbx:
            return await stack.enter_async_context(
                running_pbx(asterisk_root, tmp_path / "pbx", options)
            )

        yield start


@pytest.fixture
async def start_phone(tmp_path: Path) -> AsyncIterator[StartPhone]:
    """Start a phone that says these 8 kHz samples once its call is answered."""
    numbers = count(1)
    async with AsyncExitStack() as stack:

        async def start(says_pcm: bytes) -> Phone:
            folder = tmp_path / f"phone-{next(numbers)}"
            return await stack.enter_async_context(ready_phone(folder, says_pcm))

        yield start
