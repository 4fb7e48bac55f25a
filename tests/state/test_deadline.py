"""What is too short, and what is said of it."""

from __future__ import annotations

import pytest

from leadstatus_async._state.deadline import Deadline
from leadstatus_async.errors import DeadlineExceededError


@pytest.mark.parametrize(("now", "needed", "short"), [(10, 2, False), (10, 2.1, True), (11.5, 1, True)])
def test_too_short(now, needed, short):
    """What takes exactly as long as there is left is in time; the error says how long it would take."""
    error = Deadline(2, 12).too_short(now, needed)
    assert (error is not None) is short
    if error is not None:
        assert isinstance(error, DeadlineExceededError)
        assert error.needed == needed
        assert "deadline=2 s is too short: at the present rate" in str(error)
        assert f"{needed:.1f} s from now" in str(error)


def test_passed():
    """It says what was never asked would have needed, if anything was not."""
    error = Deadline(0.25, 12).passed()
    assert (str(error), error.needed) == ("deadline of 0.25 s passed", None)
    error = Deadline(0.25, 12).passed(4.0)
    assert str(error).startswith("deadline of 0.25 s passed: at the present rate")
    assert "4.0 s from now" in str(error)
    assert error.needed == 4.0
