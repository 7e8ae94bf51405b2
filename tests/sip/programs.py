"""Starting programs a test needs, ending those and no others."""

import asyncio
from pathlib import Path

_STOP_S = 5


async def start(log_file: Path, *command: str) -> asyncio.subprocess.Process:
    """Start a program whose words go to a file; in a session of its own, so that Ctrl-C is ours."""
    with log_file.open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a process that we started: politely, then not."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
