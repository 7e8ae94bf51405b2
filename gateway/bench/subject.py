"""What is measured: a gateway of this version in a process of its own, or any other by its URL."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from gateway.bench import process
from gateway.bench.encryption import Encryption
from gateway.errors import PeerRefused

START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
_LOOK_S = 0.1
_LISTENS = re.compile(r"taking calls on [^:]+:(\d+),")
_MOST_CALLS = 10_000
_SERVE = ("-m", "gateway", "serve", "--host", "127.0.0.1", "--port", "0", "--ops-port", "0")


class Other:
    """Somebody else's gateway, started by somebody else; spoken to without TLS."""

    can_restart = False
    encryption: Encryption | None = None
    tapes: Path | None = None

    def __init__(self, url: str, pid: int | None, core: int) -> None:
        self.url = url
        self.pid = pid
        self._core = core

    async def start(self, _realtime_port: int) -> None:
        """Pin it, where its process is known."""
        if self.pid is not None:
            process.pin(self.pid, self._core)

    async def stop(self) -> None:
        """It stays."""


class OwnGateway:
    """``gateway serve`` with everything on, pinned to one core, its log in a file.

    ``encryption``: what it serves TLS with, and whom it trusts to be the model; None = no TLS.
    ``tapes``: a folder for a tape of each call; None = calls are not taped.
    """

    can_restart = True

    def __init__(
        self,
        core: int,
        environ: Mapping[str, str],
        encryption: Encryption | None = None,
        tapes: Path | None = None,
    ) -> None:
        self.url = ""
        self.encryption = encryption
        self.tapes = tapes
        self.pid: int | None = None
        self._core = core
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    async def start(self, realtime_port: int) -> None:
        """Start it and wait until it takes calls.

        Raises:
            PeerRefused: it does not come up; the last line of its log is the message.
        """
        if self.tapes is not None:
            # Tapes of the steps before would be packed in this one.
            shutil.rmtree(self.tapes, ignore_errors=True)
        self._log = tempfile.NamedTemporaryFile(prefix="gateway-bench-", suffix=".log")  # noqa: SIM115
        with _on_core(self._core):
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603  ourselves, before any load
                [sys.executable, *_SERVE],
                env=_environment(self._environ, realtime_port, self.encryption, self.tapes),
                stdout=self._log,
                stderr=self._log,
            )
        self.pid = self._process.pid
        scheme = "wss" if self.encryption else "ws"
        self.url = f"{scheme}://127.0.0.1:{await self._port()}/twilio/media"

    async def _port(self) -> int:
        for _ in range(int(START_TIMEOUT_S / _LOOK_S)):
            found = _LISTENS.search(self._words())
            if found:
                return int(found[1])
            if self._process is None or self._process.poll() is not None:
                break
            await asyncio.sleep(_LOOK_S)
        words = self._words().strip().splitlines()
        await self.stop()
        raise PeerRefused("the gateway does not start: " + (words[-1] if words else "no word"))

    def _words(self) -> str:
        return Path(self._log.name).read_text(errors="replace") if self._log else ""

    async def stop(self) -> None:
        """Stop it; at once where it does not by itself."""
        gone, self._process = self._process, None
        if gone is not None:
            # The second one means at once; calls that are left are of no interest.
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
                if gone.poll() is not None:
                    break
                gone.send_signal(number)
                await _wait(gone, STOP_TIMEOUT_S if number is signal.SIGTERM else 1.0)
        if self._log is not None:
            self._log.close()
            self._log = None
        self.pid = None


Subject = OwnGateway | Other


async def _wait(gone: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    for _ in range(int(timeout_s / 0.02)):
        if gone.poll() is not None:
            return
        await asyncio.sleep(0.02)


@contextlib.contextmanager
def _on_core(core: int) -> Iterator[None]:
    """What is started meanwhile begins its life on that core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _environment(
    environ: Mapping[str, str],
    realtime_port: int,
    encryption: Encryption | None,
    tapes: Path | None,
) -> dict[str, str]:
    """Nothing of the operator's settings; everything that a gateway in service has on."""
    kept = {name: environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in environ}
    scheme = "https" if encryption else "http"
    return (
        kept
        | _tls_environment(encryption)
        | ({"GATEWAY_TAPE_DIR": str(tapes), "GATEWAY_TAPE_SHARE": "1"} if tapes else {})
        | {
            "AZURE_OPENAI_ENDPOINT": f"{scheme}://127.0.0.1:{realtime_port}",
            "AZURE_OPENAI_DEPLOYMENT_NAME": "measured",
            "AZURE_OPENAI_API_KEY": "not-a-secret",
            "GATEWAY_INSECURE": "1",
            "GATEWAY_MAX_CALLS": str(_MOST_CALLS),
            "GATEWAY_LOG_FORMAT": "json",
            "GATEWAY_LOG_LEVEL": "info",
        }
    )


def _tls_environment(encryption: Encryption | None) -> dict[str, str]:
    if encryption is None:
        return {}
    return {
        "SSL_CERT_FILE": str(encryption.certificate),
        "GATEWAY_TLS_CERTIFICATE": str(encryption.certificate),
        "GATEWAY_TLS_KEY": str(encryption.key),
    }
