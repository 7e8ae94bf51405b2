"""A real PostgreSQL server for a test, on a port of its own, that can be stopped and restarted."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.running import free_port

_USER = "postgres"


def _folder_of_programs() -> Path:
    """Where Debian puts the server's programs; skips, or fails where they are required."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if found or on_path:
        return (found[-1] if found else Path(on_path or "")).parent
    reason = "there is no PostgreSQL: apt-get install postgresql"
    if "postgresql" in os.environ.get("GATEWAY_TESTS_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True)
class Postgres:
    """A server; ``url`` leads to its one database."""

    folder: Path
    programs: Path
    port: int

    @property
    def url(self) -> str:
        """What GATEWAY_DATABASE_URL would be."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        """Make its files."""
        self._run("initdb", "--auth=trust", f"--username={_USER}", "--no-sync", "-D", self._data)

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self.folder}"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", self._data, "-w", "-t", "60", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """Stop as if the machine had failed."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def query(self, statement: str) -> list[str]:
        """The rows of an answer, by the server's own client."""
        target = ("-h", "127.0.0.1", "-p", str(self.port), "-U", _USER, "-d", "postgres")
        return self._run("psql", *target, "-A", "-t", "-q", "-c", statement).splitlines()

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [*_as_nobody(), str(self.programs / program), *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            # The server would inherit a pipe and keep it open.
            stdout=None if program == "pg_ctl" else subprocess.PIPE,
            stderr=None if program == "pg_ctl" else subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            timeout=90,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout or ""


def _as_nobody() -> list[str]:
    """The server refuses to run as root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that runs; it is gone afterwards, with its files."""
    programs = _folder_of_programs()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if os.geteuid() == 0:
        user = pwd.getpwnam(_USER)
        os.chown(folder, user.pw_uid, user.pw_gid)
    server = Postgres(folder, programs, free_port())
    try:
        server.make()
        server.start()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder)
