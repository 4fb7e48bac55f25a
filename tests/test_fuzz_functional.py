"""A few stories of the fuzzer, which `python -m tests.fuzz` tells for as long as it is given."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from tests.fuzz import socket_story


@pytest.mark.parametrize("seed", range(16))
def test_a_story_over_real_sockets(seed):
    """RST at any byte, copies, hints, garbage: no wrong status, nothing lost, nothing left."""
    asyncio.run(socket_story(seed))


def test_the_fuzzer_prints_its_seed():
    """And tells one story of each kind at least, however short the time."""
    environment = {**os.environ, "LEADSTATUS_FUZZ_SECONDS": "0", "LEADSTATUS_FUZZ_SEED": "17"}
    command = [sys.executable, "-m", "tests.fuzz"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [
        "fuzzing for 0 s from seed 17",
        "1 stories, virtual",
        "1 stories, sockets",
    ]
