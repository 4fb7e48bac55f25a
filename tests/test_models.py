"""What an outcome is: statuses, listed or not, and failures."""

from __future__ import annotations

import copy
import gc
import json
import pickle

import msgspec
import pytest

from leadstatus_async import models
from leadstatus_async.errors import (
    APITimeoutError,
    InvalidLeadIdError,
    MissingLeadError,
    ResponseDecodeError,
    UpstreamError,
)
from leadstatus_async.models import LeadFailure, LeadStatus, WorkflowStatus

LISTED = ["pending", "waiting", "completed", "stopped", "not_started", "not_in_campaign", "not_eligible"]
SETTLED = {"completed", "stopped", "not_in_campaign", "not_eligible"}
FULL = LeadStatus("a", WorkflowStatus.STOPPED, "instance", "email_2", "CONTENT_DISCARDED", True)


@pytest.mark.parametrize("text", LISTED)
def test_listed_status(text):
    """Each status of the reference is a member under its own name, and settled as the design lists."""
    status = WorkflowStatus[text.upper()]
    assert status == text
    assert WorkflowStatus(text) is status
    assert status.is_known
    assert status.is_settled == (text in SETTLED)


def test_exactly_the_reference_is_listed():
    """No status is listed that the reference does not have."""
    assert [member.value for member in WorkflowStatus] == LISTED


@pytest.mark.parametrize(
    "text", ["paused", "", "PENDING", "Completed", "UNLISTED(x)", "ünlisted 🙂", "x" * 10_000]
)
def test_unlisted_status_keeps_its_text(text):
    """An unlisted value is its text in every respect, is not known and never settles."""
    status = msgspec.convert(text, WorkflowStatus)
    assert (status, str(status), status.value, f"{status}") == (text, text, text, text)
    assert isinstance(status, WorkflowStatus)
    assert not status.is_known
    assert not status.is_settled
    assert hash(status) == hash(text)
    assert {text: 1}[status] == 1
    assert msgspec.json.encode(status) == msgspec.json.encode(text)
    assert json.dumps(status) == json.dumps(text)
    for twin in (pickle.loads(pickle.dumps(status)), copy.copy(status), copy.deepcopy(status)):
        assert isinstance(twin, WorkflowStatus)
        assert twin == status
        assert not twin.is_known


def test_unlisted_status_is_no_listed_member():
    """Meeting an unlisted value changes neither the members nor their iteration."""
    WorkflowStatus("met once")
    assert len(WorkflowStatus) == len(LISTED)
    assert "met once" not in WorkflowStatus.__members__.values()
    with pytest.raises(KeyError):
        WorkflowStatus["UNLISTED(met once)"]


def test_unlisted_statuses_are_shared_up_to_a_bound(monkeypatch):
    """The server cannot make us remember more than a fixed number of texts; beyond it all still works."""
    kept: dict[str, WorkflowStatus] = {}
    monkeypatch.setattr(models, "_unlisted", kept)
    texts = [f"new_{number}" for number in range(1000)]
    first = [WorkflowStatus(text) for text in texts]
    second = [WorkflowStatus(text) for text in texts]
    assert len(kept) == 256
    assert all(one is two for one, two in zip(first[:256], second[:256], strict=True))
    assert [*first] == [*second] == texts
    assert not any(status.is_known or status.is_settled for status in first + second)


@pytest.mark.parametrize("value", [None, 1, True, 1.5, b"pending", ["pending"]])
def test_status_is_text(value):
    """What is no text is no status, listed or not."""
    with pytest.raises(ValueError, match="not a valid WorkflowStatus"):
        WorkflowStatus(value)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"leadId": "a", "workflowStatus": value}, LeadStatus)


@pytest.mark.parametrize("absent", [True, False], ids=["absent", "null"])
def test_optional_fields_default_to_none(absent):
    """Null and absent both read as None."""
    optional = ["workflowInstanceId", "latestStep", "workflowStopReason", "hasPendingApproval"]
    row = {"leadId": "a", "workflowStatus": "pending", **({} if absent else dict.fromkeys(optional))}
    status = msgspec.json.decode(json.dumps(row), type=LeadStatus)
    assert status == LeadStatus("a", WorkflowStatus.PENDING, None, None, None, None)


def test_status_encodes_as_the_api_spells_it():
    """`msgspec.json.encode` gives the API's camelCase and the API's values, and reads back."""
    encoded = msgspec.json.encode(FULL)
    assert json.loads(encoded) == {
        "leadId": "a",
        "workflowStatus": "stopped",
        "workflowInstanceId": "instance",
        "latestStep": "email_2",
        "workflowStopReason": "CONTENT_DISCARDED",
        "hasPendingApproval": True,
    }
    assert msgspec.json.decode(encoded, type=LeadStatus) == FULL


@pytest.mark.parametrize("status", ["stopped", "paused"])
def test_status_to_dict_is_plain(status):
    """`to_dict` has snake_case names and exact plain types, which any JSON encoder takes."""
    row = LeadStatus("a", WorkflowStatus(status), latest_step="s").to_dict()
    assert row == {
        "lead_id": "a",
        "workflow_status": status,
        "workflow_instance_id": None,
        "latest_step": "s",
        "workflow_stop_reason": None,
        "has_pending_approval": None,
    }
    assert type(row["workflow_status"]) is str
    assert json.loads(json.dumps(row)) == row
    assert tuple(row) == LeadStatus.__struct_fields__


def test_status_is_frozen_light_and_portable():
    """A status cannot be changed, is not tracked by the collector, and pickles, copies and hashes."""
    with pytest.raises(AttributeError):
        FULL.lead_id = "b"
    assert not gc.is_tracked(FULL)
    for twin in (pickle.loads(pickle.dumps(FULL)), copy.copy(FULL), copy.deepcopy(FULL)):
        assert twin == FULL
        assert hash(twin) == hash(FULL)
    assert FULL.ok is True


def test_failure_says_why():
    """A failure holds the ID and the error, is not ok, and writes "ClassName: message"."""
    failure = LeadFailure("a", MissingLeadError("no row"))
    assert failure.ok is False
    assert failure.to_dict()["error"] == failure.reason == "MissingLeadError: no row"
    with pytest.raises(AttributeError):
        failure.lead_id = "b"


@pytest.mark.parametrize(
    ("error", "facts"),
    [
        (
            UpstreamError(502, "BAD_GATEWAY", "no", trace_id="t1", attempts=5),
            ("UpstreamError: HTTP 502 BAD_GATEWAY: no", "UpstreamError", 502, "BAD_GATEWAY", "t1", 5, True),
        ),
        (
            ResponseDecodeError("odd", 200, "t2", attempts=2),
            ("ResponseDecodeError: odd", "ResponseDecodeError", 200, None, "t2", 2, True),
        ),
        (
            APITimeoutError("late", attempts=1),
            ("APITimeoutError: late", "APITimeoutError", None, None, None, 1, True),
        ),
        (ValueError("\ud83d"), ("ValueError: \\ud83d", "ValueError", None, None, None, None, None)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_dead_letter_is_one_line(error, facts):
    """A failure is plain data: why, with which status and code, on which trace, and whether to ask again."""
    names = "error error_type http_status error_code trace_id attempts retryable"
    row = LeadFailure("a", error).to_dict()
    assert row == {"lead_id": "a", **dict(zip(names.split(), facts, strict=True))}
    assert json.loads(json.dumps(row)) == row


def test_outcomes_match():
    """`match` tells an answer from a failure; so does `ok`, which type checkers know."""
    for outcome in (FULL, LeadFailure("a", MissingLeadError("no row"))):
        match outcome:
            case LeadStatus(workflow_status=status):
                assert outcome.ok is True
                assert status == "stopped"
            case LeadFailure(error=error):
                assert outcome.ok is False
                assert error.retryable is False


def test_failure_pickles_and_copies():
    """A failure survives worker queues with its error whole."""
    failure = LeadFailure("a", MissingLeadError("no row", trace_id="t", lead_ids=["a"], attempts=2))
    for twin in (pickle.loads(pickle.dumps(failure)), copy.deepcopy(failure)):
        assert twin.lead_id == "a"
        assert vars(twin.error) == vars(failure.error)


@pytest.mark.parametrize("lead_id", ["half an emoji \ud83d", "\udc80", "ok", "ünïcode 🙂", "back\\slash"])
def test_failure_to_dict_can_be_encoded(lead_id):
    """A surrogate, for which an ID is refused, is written out: no encoder downstream would take it (c4)."""
    row = LeadFailure(lead_id, InvalidLeadIdError([(0, lead_id, "is bad")])).to_dict()
    assert json.dumps(row, ensure_ascii=False).encode()
    assert msgspec.json.encode(row)
    if not any("\ud800" <= character <= "\udfff" for character in lead_id):
        assert row["lead_id"] == lead_id


def test_errors_of_anybodys_are_data_too():
    """What they call by our names and is something else is left out; no encoder stumbles over it."""

    class OddError(Exception):
        retryable, attempts, code, status, trace_id = "yes", 1.5, 404, "no", "\ud83d"

    row = LeadFailure("a", OddError("x")).to_dict()
    assert row == {
        "lead_id": "a",
        "error": "OddError: x",
        "error_type": "OddError",
        "http_status": None,
        "error_code": None,
        "trace_id": "\\ud83d",
        "attempts": None,
        "retryable": None,
    }
    bad = UnicodeDecodeError("utf-8", b"x", 0, 1, "bad byte")
    assert LeadFailure("a", bad).reason.startswith("UnicodeDecodeError: ")
