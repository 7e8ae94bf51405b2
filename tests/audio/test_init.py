"""The audio package asks for one BLAS thread."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("asked", "threads"), [(None, "1"), ("3", "3")])
def test_one_blas_thread_unless_told_otherwise(asked: str | None, threads: str) -> None:
    """Importing any audio module settles the number of BLAS threads, if the operator did not."""
    environ = {name: value for name, value in os.environ.items() if "BLAS" not in name}
    if asked is not None:
        environ["OPENBLAS_NUM_THREADS"] = asked
    program = "import gateway.audio.g711, os; print(os.environ['OPENBLAS_NUM_THREADS'])"
    run = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, check=True
    )
    assert run.stdout.decode().strip() == threads
