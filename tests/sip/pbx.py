"""A private Asterisk whose every extension dials the gateway over chan_websocket.

It runs as whoever runs the tests, on ports that were free, from a folder that fetch_asterisk.sh
unpacked: through that folder's own dynamic loader, for its libraries are newer than Debian 12's.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.sip.ports import free_ports
from tests.sip.programs import start, stop

# It answers within half a second; this is for a machine that is busy with other things.
_BOOT_S = 30
_RTP_PORTS = 40

# chan_pjsip does not load without res_pjsip_pubsub, chan_websocket not without res_http_websocket.
_MODULES = (
    "res_timing_timerfd",
    "res_sorcery_config",
    "res_sorcery_memory",
    "res_sorcery_astdb",
    "res_crypto",
    "res_http_websocket",
    "res_websocket_client",
    "res_pjproject",
    "res_pjsip",
    "res_pjsip_pubsub",
    "res_pjsip_session",
    "res_pjsip_sdp_rtp",
    "res_pjsip_endpoint_identifier_ip",
    "res_pjsip_caller_id",
    "res_pjsip_rfc3326",
    "res_rtp_asterisk",
    "chan_pjsip",
    "chan_websocket",
    "codec_ulaw",
    "codec_alaw",
    "codec_resample",
    "bridge_simple",
    "pbx_config",
    "app_dial",
    "func_uri",
    "func_callerid",
)


@dataclass(frozen=True, slots=True)
class Extension:
    """A number to dial: which sound goes to the gateway, and how control messages are written."""

    number: str
    codec: str = "ulaw"
    has_json: bool = True
    parameters: tuple[str, ...] = ()

    def dialplan(self) -> str:
        """Its line of extensions.conf; who calls whom travels in the query string."""
        values = ",".join(("from=${URIENCODE(${CALLERID(num)})}", "to=${EXTEN}", *self.parameters))
        control = "f(json)" if self.has_json else ""
        options = f"c({self.codec}){control}v({values})"
        return f"exten => {self.number},1,Dial(WebSocket/gateway/{options})"


@dataclass(frozen=True, slots=True)
class PbxOptions:
    """The media WebSocket of the gateway, how to log in to it, and the numbers to give out."""

    media_url: str
    extensions: Sequence[Extension]
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Pbx:
    """A running Asterisk."""

    sip_port: int
    log_file: Path
    _command: tuple[str, ...]

    async def cli(self, command: str) -> str:
        """What Asterisk's console answers to a command; "" while it is not up."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            "-rx",
            command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
        return output.decode(errors="replace")

    async def active_calls(self) -> int:
        """How many calls it carries now."""
        answer = await self.cli("core show channels count")
        return next(int(line.split()[0]) for line in answer.splitlines() if "active call" in line)

    def log(self) -> str:
        """Everything it wrote, for the message of a test that failed."""
        return self.log_file.read_text(errors="replace")


@asynccontextmanager
async def running_pbx(root: Path, folder: Path, options: PbxOptions) -> AsyncIterator[Pbx]:
    """Start the Asterisk unpacked in ``root``; configuration and log lie in ``folder``."""
    # Its control socket's name has 108 characters at most; pytest's folders may be longer.
    run = Path(tempfile.mkdtemp(prefix="pbx-"))
    sip_port = free_ports(1)[0]
    _configure(root, folder, run, sip_port, options)
    command = (*_program(root), "-C", str(folder / "asterisk.conf"))
    log_file = folder / "asterisk.log"
    process = await start(log_file, *command, "-f")
    pbx = Pbx(sip_port, log_file, command)
    try:
        await _booted(pbx, process)
        yield pbx
    finally:
        await stop(process)
        shutil.rmtree(run, ignore_errors=True)


async def _booted(pbx: Pbx, process: asyncio.subprocess.Process) -> None:
    """Wait until Asterisk takes calls.

    Raises:
        RuntimeError: It ended, or did not start in time; with its log.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_BOOT_S):
            while process.returncode is None:
                if "fully booted" in await pbx.cli("core waitfullybooted"):
                    return
                await asyncio.sleep(0.05)
    raise RuntimeError(f"Asterisk did not start:\n{pbx.log()[-4000:]}")


def _program(root: Path) -> tuple[str, ...]:
    loader = next(root.glob("usr/lib*/**/ld-linux*.so*"))
    return (
        str(loader),
        "--library-path",
        str(_libraries(root)),
        "--argv0",
        "asterisk",
        str(root / "usr/sbin/asterisk"),
    )


def _libraries(root: Path) -> Path:
    return next(root.glob("usr/lib/*-linux-gnu"))


def _configure(root: Path, folder: Path, run: Path, sip_port: int, options: PbxOptions) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "asterisk.conf": _asterisk_conf(root, folder, run),
        "modules.conf": "[modules]\nautoload=no\n"
        + "".join(f"load={module}.so\n" for module in _MODULES),
        "logger.conf": "[general]\n[logfiles]\nconsole => notice,warning,error,verbose(3)\n",
        "http.conf": "[general]\nenabled=no\n",
        "rtp.conf": _rtp_conf(),
        "pjsip.conf": _pjsip_conf(sip_port),
        "chan_websocket.conf": "[general]\ncontrol_message_format=plain-text\n",
        "websocket_client.conf": _websocket_client_conf(options),
        "extensions.conf": "\n".join(
            ("[callers]", *(extension.dialplan() for extension in options.extensions), "")
        ),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _asterisk_conf(root: Path, folder: Path, run: Path) -> str:
    return f"""[directories]
astetcdir => {folder}
astmoddir => {_libraries(root)}/asterisk/modules
astvarlibdir => {run}
astdbdir => {run}
astkeydir => {run}
astdatadir => {root}/usr/share/asterisk
astspooldir => {run}
astrundir => {run}
astlogdir => {run}
[options]
verbose = 3
nocolor = yes
"""


def _rtp_conf() -> str:
    # Asterisk looks for a free pair itself; the range only has to be away from everybody else's.
    first = min(free_ports(1)[0], 65_000 - _RTP_PORTS) & ~1
    return f"[general]\nrtpstart={first}\nrtpend={first + _RTP_PORTS}\nicesupport=no\n"


def _pjsip_conf(sip_port: int) -> str:
    return f"""[udp]
type=transport
protocol=udp
bind=127.0.0.1:{sip_port}
[caller]
type=endpoint
transport=udp
context=callers
disallow=all
allow=ulaw,alaw
direct_media=no
dtmf_mode=rfc4733
rtp_symmetric=yes
media_address=127.0.0.1
bind_rtp_to_media_address=yes
[caller]
type=identify
endpoint=caller
match=127.0.0.1
"""


def _websocket_client_conf(options: PbxOptions) -> str:
    login = ""
    if options.username:
        login = f"username={options.username}\npassword={options.password}\n"
    return f"""[gateway]
type=websocket_client
connection_type=per_call_config
uri={options.media_url}
protocols=media
connection_timeout=2000
reconnect_interval=500
reconnect_attempts=1
{login}"""
