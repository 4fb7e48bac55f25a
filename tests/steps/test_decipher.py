"""What an answer says: status, headers and body bytes in, rows or a typed failure out."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from leadstatus_async._steps.decipher import Asked, BadRow, Failure, Rows, Sort, decipher
from leadstatus_async._steps.redact import Redactor
from leadstatus_async._steps.rows import presented
from leadstatus_async.errors import (
    AuthenticationError,
    BadRequestError,
    LeadStatusError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTooLargeError,
    ResponseDecodeError,
    ServerError,
    UnexpectedStatusError,
    UpstreamError,
    is_fatal,
)
from leadstatus_async.models import LeadStatus, WorkflowStatus

SAMPLES = Path(__file__).parents[1] / "samples"
TRACE = "507f1f77bcf86cd799439011"
NO_HEADERS = CIMultiDict[str]()
PENDING = WorkflowStatus.PENDING


def sample(name: str) -> bytes:
    """Return a reply as a server sent it."""
    return (SAMPLES / name).read_bytes()


def body(*items: object, **more: object) -> bytes:
    """Return a 200 body with the rows given, and more or other fields of the envelope."""
    return json.dumps(
        {"success": True, "data": {"items": items}, "error": None, "traceId": "t", **more}
    ).encode()


def row(lead_id: object = "a", status: object = "pending", **more: object) -> dict[str, object]:
    """Return a row of an answer."""
    return {"leadId": lead_id, "workflowStatus": status, **more}


def refused(status: int, content: bytes = b"", **headers: str) -> Failure:
    """Decipher an answer that must be a failure."""
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    answer = decipher(status, named, content)
    assert isinstance(answer, Failure)
    assert answer.early is False
    return answer


def shown(answer: Rows) -> Rows:
    """Return rows as they are shown when they meet their leads."""
    items = [one if isinstance(one, BadRow) else presented([one], Redactor())[0] for one in answer.items]
    return msgspec.structs.replace(answer, items=items)


def read(content: bytes) -> Rows:
    """Decipher a 200 that must bring rows."""
    answer = decipher(200, NO_HEADERS, content)
    assert isinstance(answer, Rows)
    answer = shown(answer)
    assert not answer.clean or (
        answer.unreadable == 0 and all(isinstance(one, LeadStatus) for one in answer.items)
    )
    return answer


def test_documented_answer():
    """The example of the reference is read field by field."""
    rows = read(sample("200_documented.json"))
    assert rows.items == [
        LeadStatus(TRACE, PENDING, TRACE, "string", "CONTENT_DISCARDED", has_pending_approval=True)
    ]
    assert (rows.trace_id, rows.clean, rows.unreadable) == (TRACE, True, 0)


def test_mixed_answer():
    """Absent fields, a new status and new fields are fine; bad rows and nameless ones lose no neighbour."""
    rows = read(sample("200_mixed.json"))
    first, second, third, fourth, fifth = rows.items
    assert first == LeadStatus(
        "65a1f0c2e4b0a1d2c3e4f501",
        WorkflowStatus.WAITING,
        "65b2a1d3f5c1b2e3d4f5a601",
        "email_2",
        None,
        False,
    )
    assert second == LeadStatus("65a1f0c2e4b0a1d2c3e4f502", WorkflowStatus.NOT_STARTED)
    assert third == LeadStatus("65a1f0c2e4b0a1d2c3e4f503", WorkflowStatus("paused_by_owner"))
    assert isinstance(fourth, BadRow)
    assert fifth == LeadStatus("65015", WorkflowStatus.STOPPED, workflow_stop_reason="REPLIED ?")
    assert (rows.trace_id, rows.clean, rows.unreadable) == ("65c3b2e4a6d2c3f4e5a6b701", False, 2)


@pytest.mark.parametrize(
    ("status", "name", "kind", "sort", "code", "message"),
    [
        (400, "400.json", BadRequestError, Sort.REFUSED, "VALIDATION_ERROR", "leadIds is invalid"),
        (401, "401.json", AuthenticationError, Sort.FATAL, "UNAUTHORIZED", "Invalid or missing API key"),
        (403, "403.json", PermissionDeniedError, Sort.FATAL, "FORBIDDEN", "Missing required permission"),
        (404, "404.json", NotFoundError, Sort.FATAL, "NOT_FOUND", "Campaign not found"),
        (429, "429.json", RateLimitError, Sort.THROTTLED, "RATE_LIMIT_EXCEEDED", "Rate limit exceeded"),
        (500, "500.json", ServerError, Sort.PASSING, "INTERNAL_SERVER_ERROR", "Internal server error"),
        (502, "502.json", UpstreamError, Sort.PASSING, "UPSTREAM_ERROR", "Upstream service error"),
    ],
)
def test_documented_errors(status, name, kind, sort, code, message):
    """Each documented status is an error of its class, with what the envelope says."""
    failure = refused(status, sample(name))
    error = failure.error
    assert type(error) is kind
    assert failure.sort is sort
    assert failure.retry_after is None
    assert (error.status, error.code, error.message, error.trace_id) == (status, code, message, TRACE)
    assert error.details == json.loads(sample(name))["error"]["details"]
    assert str(error).startswith(f"HTTP {status} {code}: {message}")


@pytest.mark.parametrize(
    ("status", "name", "kind", "sort", "text"),
    [
        (
            400,
            "400_proxy.html",
            BadRequestError,
            Sort.OVERSIZE,
            "400 The request could not be satisfied 400 ERROR The",
        ),
        (
            414,
            "414_proxy.html",
            RequestTooLargeError,
            Sort.OVERSIZE,
            "414 Request-URI Too Large 414 Request-URI Too",
        ),
        (502, "502_proxy.html", UpstreamError, Sort.PASSING, "502 Bad Gateway 502 Bad Gateway edge/1.25"),
    ],
)
def test_html_error_pages(status, name, kind, sort, text):
    """HTML error pages keep their status and a short snippet: the words of the page, without its code."""
    failure = refused(status, sample(name))
    assert type(failure.error) is kind
    assert failure.sort is sort
    assert failure.error.message.startswith(text)
    assert not any(code in failure.error.message for code in ("<", "{", "cookie"))
    assert (failure.error.code, failure.error.trace_id, failure.error.details) == (None, None, None)
    assert len(failure.error.message) <= 200


@pytest.mark.parametrize(
    ("status", "kind", "sort"),
    [
        (201, UnexpectedStatusError, Sort.FINAL),
        (204, UnexpectedStatusError, Sort.FINAL),
        (206, UnexpectedStatusError, Sort.FINAL),
        (300, UnexpectedStatusError, Sort.FINAL),
        (301, UnexpectedStatusError, Sort.FATAL),
        (304, UnexpectedStatusError, Sort.FINAL),
        (308, UnexpectedStatusError, Sort.FATAL),
        (400, BadRequestError, Sort.OVERSIZE),
        (401, AuthenticationError, Sort.FATAL),
        (402, UnexpectedStatusError, Sort.FATAL),
        (403, PermissionDeniedError, Sort.FATAL),
        (404, NotFoundError, Sort.FATAL),
        (405, UnexpectedStatusError, Sort.FATAL),
        (406, UnexpectedStatusError, Sort.FATAL),
        (408, UnexpectedStatusError, Sort.PASSING),
        (413, RequestTooLargeError, Sort.OVERSIZE),
        (414, RequestTooLargeError, Sort.OVERSIZE),
        (409, UnexpectedStatusError, Sort.FINAL),
        (410, UnexpectedStatusError, Sort.FATAL),
        (418, UnexpectedStatusError, Sort.FATAL),
        (422, UnexpectedStatusError, Sort.FINAL),
        (429, RateLimitError, Sort.THROTTLED),
        (431, RequestTooLargeError, Sort.OVERSIZE),
        (500, ServerError, Sort.PASSING),
        (501, ServerError, Sort.FINAL),
        (502, UpstreamError, Sort.PASSING),
        (503, ServerError, Sort.PASSING),
        (504, ServerError, Sort.PASSING),
        (505, ServerError, Sort.FINAL),
        (507, ServerError, Sort.PASSING),
        *((status, ServerError, Sort.PASSING) for status in range(520, 531)),
        (599, ServerError, Sort.PASSING),
        (600, UnexpectedStatusError, Sort.FINAL),
        (999, UnexpectedStatusError, Sort.FINAL),
    ],
)
def test_statuses_without_a_body(status, kind, sort):
    """Any status makes the class and the sort that the table gives it, even with an empty body."""
    failure = refused(status)
    assert type(failure.error) is kind
    assert failure.sort is sort
    assert (failure.error.status, failure.error.code, failure.error.message) == (status, None, "")


@pytest.mark.parametrize(
    ("content", "sort"),
    [
        (b'{"success": false, "error": {"code": "X", "message": "m"}}', Sort.REFUSED),
        (b'{"error": {}}', Sort.REFUSED),
        (b'\xef\xbb\xbf{"error": {"message": "with a BOM"}}', Sort.REFUSED),
        (b'{"error": {"message": "half an emoji \\ud83d"}}', Sort.REFUSED),
        (b'{"error": "Bad Request"}', Sort.OVERSIZE),
        (b'{"message": "Bad Request"}', Sort.OVERSIZE),
        (b'{"error": null}', Sort.OVERSIZE),
        (b"[]", Sort.OVERSIZE),
        (b"null", Sort.OVERSIZE),
        (b"Bad Request", Sort.OVERSIZE),
        (b"", Sort.OVERSIZE),
        (b"\xff\xfe\x00", Sort.OVERSIZE),
        (b'{"error": {"code": "X"', Sort.OVERSIZE),
    ],
)
def test_a_400_is_ours_only_in_our_envelope(content, sort):
    """A 400 that is not our JSON envelope comes from something in front, which found the request too long."""
    assert refused(400, content).sort is sort


ENVELOPE = b'{"success": false, "data": null, "error": {"code": "C", "message": "m"}, "traceId": "t"}'


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "API key was refused"),
        (403, "campaigns:read"),
        (404, "Check the account group ID"),
        (302, "check base_url"),
        (308, "check base_url"),
    ],
)
def test_advice(status, advice):
    """What the user can do about it is said with the error."""
    assert advice in str(refused(status, ENVELOPE).error)
    for other in (300, 304, 402, 410, 500):
        assert advice not in str(refused(other, ENVELOPE).error)


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 406, 410, 451])
@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"404 page not found",
        b"<html><title>Just a moment...</title></html>",
        b'{"message": "no Route matched with those values"}',
        b'{"error": "Forbidden"}',
        b'{"error": {"code": 403, "message": "Forbidden", "status": "PERMISSION_DENIED"}}',
        b'{"success": false, "error": "Forbidden"}',
        b'{"success": true, "error": {"code": "C", "message": "m"}}',
    ],
)
def test_only_the_envelope_is_believed(status, page):
    """Pages of proxies stop a call only where the API has never answered, and name base_url, not the key."""
    first, later = refused(status, page), decipher(status, {}, page, asked=Asked(served=True))
    assert (first.sort, later.sort) == (Sort.FATAL, Sort.PASSING)
    assert (is_fatal(first.error), is_fatal(later.error)) == (True, False)
    for failure in (first, later):
        assert type(failure.error) is type(refused(status, ENVELOPE).error)
        assert "base_url" in str(failure.error)
        assert not any(word in str(failure.error) for word in ("key", "campaigns:read", "account group"))
    for served in (False, True):
        assert decipher(status, {}, ENVELOPE, asked=Asked(served=served)).sort is Sort.FATAL


def test_a_version_given_twice_is_blamed_on_base_url():
    """And not on the IDs, which may be right."""
    for content in (ENVELOPE, b""):
        text = str(decipher(404, {}, content, asked=Asked("/v1/v1/accounts/a/campaigns/c/lead-status")).error)
        assert "base_url" in text
        assert "campaign ID" not in text


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    ("headers", "content", "seconds"),
    [
        ({}, b"", None),
        ({"Retry_After": "7"}, b"", 7.0),
        ({"retry_after": "0"}, b"", 0.0),
        ({}, b'{"error": {"retry_after": 3}}', 3.0),
        ({}, b'{"retry_after": 2.5, "error": {"code": "X"}}', 2.5),
        ({"Retry_After": "soon"}, b"<html>", None),
    ],
    ids=["none", "header", "zero", "error", "top", "unreadable"],
)
def test_stated_pause(status, headers, content, seconds):
    """What the server states is on the user's error; only with 429 and 503 is it a pause (d7)."""
    failure = refused(status, content, **headers)
    assert failure.retry_after == (seconds if status in {429, 503} else None)
    assert failure.error.retry_after == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "42"}, 42.0),
        ({"RateLimit": '"default";r=0;t=9'}, 9.0),
        ({"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "42", "Retry_After": "3"}, 3.0),
        ({"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "42", "Retry_After": "0"}, 42.0),
        ({"X_RateLimit_Remaining": "7", "X_RateLimit_Reset": "42"}, None),
        ({"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "0"}, None),
    ],
    ids=["used-up", "draft", "retry-after-first", "unless-zero", "another-limit", "already-reset"],
)
def test_a_429_that_names_its_limit_as_used_up_states_the_pause(headers, seconds):
    """GitHub and others put it into the rate-limit headers only; no other status is read so."""
    assert refused(429, b"", **headers).retry_after == seconds
    if "Retry_After" not in headers:
        assert refused(503, b"", **headers).retry_after is None


def test_a_date_needs_a_clock():
    """Without a `Date` of the answer's own, the caller's clock tells how far away a date is."""
    headers = {"Retry-After": "Mon, 23 Nov 2026 08:00:09 GMT"}
    answer = decipher(429, headers, b"", now=1_795_420_800.0)
    assert isinstance(answer, Failure)
    assert answer.retry_after == 9.0
    assert refused(429, b"", Retry_After=headers["Retry-After"]).retry_after is None


@pytest.mark.parametrize(
    ("told", "code", "message", "details"),
    [
        (
            {"code": 1234, "message": 5, "details": {"field": ["leadIds"]}},
            "1234",
            "5",
            {"field": ["leadIds"]},
        ),
        ({"code": None, "message": None, "details": None}, None, None, None),
        ({"code": True, "message": ["x"], "details": False}, None, None, False),
    ],
    ids=["numbers", "nulls", "others"],
)
def test_envelope_of_other_types(told, code, message, details):
    """Code and message are text or nothing; details may be any JSON; a message always says something."""
    content = json.dumps({"error": told, "traceId": 77}).encode()
    error = refused(400, content).error
    assert (error.code, error.details, error.trace_id) == (code, details, "77")
    assert error.message == (message or content.decode()[:200])


def test_success_false_in_a_200():
    """A 200 that says it is none is an error with what the envelope says, and is not sent again (c10)."""
    content = body(row(), success=False, data=None, error={"code": "C", "message": "m", "details": [1]})
    failure = refused(200, content)
    assert type(failure.error) is UnexpectedStatusError
    assert failure.sort is Sort.FINAL
    assert (failure.error.status, failure.error.code, failure.error.details) == (200, "C", [1])
    assert failure.error.trace_id == "t"


@pytest.mark.parametrize("success", [None, "true", 1, 0, "false"], ids=repr)
def test_success_of_another_type(success):
    """Only true is success."""
    assert type(refused(200, body(row(), success=success)).error) is UnexpectedStatusError


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"data": {"items": [row()]}}).encode(),
        body(row(), unknown={"deep": [{"er": 1}]}),
        body(row(unknown=[1, {"x": None}])),
        body(row(), traceId={"odd": True}),
        b"\xef\xbb\xbf" + body(row()),
        b" \r\n\t" + body(row()) + b"\n",
        body(row()).replace(b'"pending"', b'"x", "workflowStatus": "pending"'),
        body(row()).decode().encode("utf-16"),
    ],
    ids=["bare", "more in envelope", "more in row", "odd trace id", "BOM", "spaces", "key twice", "utf-16"],
)
def test_tolerated_answers(content):
    """What is odd but unmistakable is read: unknown fields, a BOM, keys given twice (c5)."""
    assert read(content).items == [LeadStatus("a", PENDING)]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the body is not JSON"),
        (b"<html><title>Sign in</title></html>", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (body(row("x" * 50))[:-20], "the body is not JSON (Input data was truncated)"),
        (body(row()).replace(b'"t"', b"1" * 5000), "the body is not JSON"),
        (b'{"data":' + b"[" * 100_000, "the body is not JSON"),
        (b"null", "no list data.items"),
        (b"[]", "no list data.items"),
        (b"5", "no list data.items"),
        (body(row(), data=None), "no list data.items"),
        (body(row(), data=[row()]), "no list data.items"),
        (body(row(), data={}), "no list data.items"),
        (body(row(), data={"items": None}), "no list data.items"),
        (body(row(), data={"items": {"a": row()}}), "no list data.items"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_undecodable_answers(content, why):
    """A 200 that is not what the API promises is a decode error, worth another try, and never "no leads"."""
    failure = refused(200, content)
    assert type(failure.error) is ResponseDecodeError
    assert failure.sort is Sort.PASSING
    assert failure.error.status == 200
    assert why in str(failure.error)
    assert f"{len(content)} bytes" in str(failure.error)
    assert len(failure.error.snippet) <= 500
    assert len(str(failure.error)) < 400


def test_undecodable_json_names_no_lead():
    """The text of an error has no lead IDs, which logs should not hold; the snippet has the beginning."""
    error = refused(200, body(row("lead-7"))[:-3]).error
    assert "lead-7" not in str(error)
    assert "lead-7" in error.snippet
    assert "Sign in" in str(refused(200, b"<html><body>Sign in</body></html>").error)


def test_snippet_is_one_line_of_text():
    """A snippet has no BOM, no line breaks and no bytes that are no text, and is cut short."""
    assert refused(502, b"\xef\xbb\xbf<h1>Bad\r\n  gateway \xff</h1>").error.message == "Bad gateway \ufffd"
    assert refused(200, b"x" * 100_000).error.snippet == "x" * 500


def test_undecodable_answer_keeps_its_trace_id():
    """The trace id of an answer without rows is not lost."""
    assert refused(200, body(data=None)).error.trace_id == "t"


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [
        (row("bad", None), "workflowStatus"),
        (row("bad", 5), "workflowStatus"),
        ({"leadId": "bad"}, "workflowStatus"),
        (row("bad", latestStep=True), "latestStep"),
        (row("bad", hasPendingApproval=1), "hasPendingApproval"),
        (row("bad", workflowInstanceId=["x"]), "workflowInstanceId"),
        (row("bad", hasPendingApproval="yes"), "hasPendingApproval"),
        (row("bad", workflowStopReason={"code": 1}), "workflowStopReason"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_row(bad, wrong):
    """One malformed row is that lead's decode error, with trace id and snippet; the others are read."""
    rows = read(body(row("a"), bad, row("c")))
    assert [rows.items[0], rows.items[2]] == [LeadStatus("a", PENDING), LeadStatus("c", PENDING)]
    assert isinstance(rows.items[1], BadRow)
    error = rows.items[1].error
    assert rows.items[1].lead_id == "bad"
    assert error.lead_ids == ("bad",)
    assert (error.status, error.trace_id) == (200, "t")
    assert wrong in str(error)
    assert '"bad"' in error.snippet
    assert "bad" not in str(error)


@pytest.mark.parametrize("item", [None, 5, "a", [], {}, row(None), row(True), row(1.5), row(["a"])], ids=repr)
def test_nameless_row(item):
    """A row that does not say whose it is is counted and loses no neighbour."""
    rows = read(body(row("a"), item))
    assert rows.items == [LeadStatus("a", PENDING)]
    assert rows.unreadable == 1


@pytest.mark.parametrize("lead_id", [0, 12, -3, 10**30], ids=str)
def test_numeric_ids_are_read_as_their_digits(lead_id):
    """A server that sends an ID as a number means its digits (c5)."""
    assert read(body(row(lead_id))).items == [LeadStatus(str(lead_id), PENDING)]


@pytest.mark.parametrize("number", ["5", "-1.50", "1e308", "1" * 2000])
def test_numbers_in_text_fields_are_read_as_their_digits(number):
    """A step, a reason or an instance that comes as a number is its digits, as they stand."""
    content = body(row("a", latestStep=77), row("b")).replace(b"77", number.encode())
    assert [one.latest_step for one in read(content).items] == [number, None]


def test_empty_list_of_rows():
    """An answer without rows is an answer; what is missing is told when rows meet leads."""
    rows = read(body())
    assert (rows.items, rows.clean) == ([], True)


@pytest.mark.parametrize("text", ["\ud83d", "x\udc00y", "\udc00\ud800"])
def test_lone_surrogates_are_rescued(text):
    """Text cut inside an emoji does not lose the body, and no surrogate gets into a result (c4)."""
    rows = read(body(row("a", latestStep=text), row("b", latestStep="\U0001f642 kept")))
    assert rows.items[0].latest_step == "".join("?" if "\ud800" <= one <= "\udfff" else one for one in text)
    assert rows.items[1].latest_step == "\U0001f642 kept"
    assert msgspec.json.encode(rows.items[0])


json_ = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "success",
                    "data",
                    "items",
                    "error",
                    "traceId",
                    "leadId",
                    "workflowStatus",
                    "code",
                    "message",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)
bodies = st.one_of(
    st.binary(max_size=200),
    json_.map(lambda value: json.dumps(value).encode()),
    st.lists(json_, max_size=4).map(lambda items: body(*items)),
)


@given(status=st.integers(200, 600), content=bodies)
def test_decipher_never_raises(status, content):
    """Whatever comes, it is rows or a failure with a typed error whose text can be encoded."""
    answer = decipher(status, NO_HEADERS, content)
    if isinstance(answer, Failure):
        assert isinstance(answer.error, LeadStatusError)
        assert str(answer.error).encode()
    else:
        assert status == 200
        for one in shown(answer).items:
            assert one.lead_id.encode().decode() == one.lead_id
            assert isinstance(one, BadRow) or msgspec.json.encode(one)


rows_ = st.lists(
    st.builds(
        LeadStatus,
        st.text(min_size=1),
        st.text().map(WorkflowStatus),
        st.none() | st.text(),
        st.none() | st.text(),
        st.none() | st.text(),
        st.none() | st.booleans(),
    ),
    max_size=10,
)


@given(rows=rows_)
def test_strict_and_loose_reading_agree(rows):
    """A good answer reads the same whether or not a bad row makes the slow way necessary."""
    items = [json.loads(msgspec.json.encode(one)) for one in rows]
    fast, slow = read(body(*items)), read(body(*items, None))
    assert fast.items == slow.items == presented(rows, Redactor())
    assert (fast.clean, slow.clean, slow.unreadable) == (True, False, 1)
