"""The error tree: what can be caught as what, and that everything survives pickling and copying."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import threading
import traceback

import pytest

from leadstatus_async import errors
from leadstatus_async.errors import (
    STATUS_ERRORS,
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BatchError,
    ConfigurationError,
    DeadlineExceededError,
    InvalidLeadIdError,
    LeadStatusError,
    LimiterError,
    MissingLeadError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTooLargeError,
    ResponseDecodeError,
    ResponseError,
    ResponseTooLargeError,
    ServerError,
    SessionClosedError,
    SessionLoopError,
    UnexpectedStatusError,
    UpstreamError,
    is_fatal,
    own_copy,
)
from leadstatus_async.models import LeadFailure, LeadStatus, WorkflowStatus
from leadstatus_async.results import BatchResult

TREE = {
    LeadStatusError: (Exception,),
    ConfigurationError: (LeadStatusError, ValueError),
    InvalidLeadIdError: (LeadStatusError, ValueError),
    SessionClosedError: (LeadStatusError,),
    SessionLoopError: (LeadStatusError,),
    LimiterError: (LeadStatusError,),
    DeadlineExceededError: (LeadStatusError, TimeoutError),
    APIConnectionError: (LeadStatusError,),
    APITimeoutError: (APIConnectionError, TimeoutError),
    ResponseError: (LeadStatusError,),
    ResponseDecodeError: (ResponseError,),
    ResponseTooLargeError: (ResponseError,),
    MissingLeadError: (ResponseError,),
    APIStatusError: (LeadStatusError,),
    BadRequestError: (APIStatusError,),
    AuthenticationError: (APIStatusError,),
    PermissionDeniedError: (APIStatusError,),
    NotFoundError: (APIStatusError,),
    RequestTooLargeError: (APIStatusError,),
    RateLimitError: (APIStatusError,),
    ServerError: (APIStatusError,),
    UpstreamError: (ServerError,),
    UnexpectedStatusError: (APIStatusError,),
    BatchError: (LeadStatusError, ExceptionGroup),
}
RESULT = BatchResult(
    [LeadStatus("a", WorkflowStatus("new")), LeadFailure("b", MissingLeadError("no row", lead_ids=["b"]))],
    trace_ids=["t1"],
)
FACTS = {"lead_ids": ("a", "b"), "attempts": 3, "waited": 1.5, "result": RESULT}


def example(kind: type[LeadStatusError]) -> LeadStatusError:
    """Build an error of a class, with every attribute set."""
    if kind is InvalidLeadIdError:
        error = InvalidLeadIdError([(0, "", "is empty"), (7, 12, "is int, not str")])
        vars(error).update(FACTS)
        return error
    if kind is BatchError:
        inner = [BadRequestError(400, "C", "m", {"k": [1]}, "t"), DeadlineExceededError("late", needed=2.0)]
        return BatchError("two failed", inner, result=RESULT)
    if kind is DeadlineExceededError:
        return DeadlineExceededError("late", needed=4.5, **FACTS)
    if issubclass(kind, ResponseError):
        return kind("odd", status=200, trace_id="t", snippet="<html>", **FACTS)
    if issubclass(kind, APIStatusError):
        return kind(500, "CODE", "text", {"any": ["json", None]}, "t", 2.5, advice="Do this", **FACTS)
    return kind("text", **FACTS)


def state(error: BaseException) -> dict[str, object]:
    """Return the attributes of an error in a form that compares."""
    own = {name: value for name, value in vars(error).items() if name not in ("result", "__notes__")}
    result = error.result
    if result is not None:
        own["result"] = (result.to_dicts(), result.stats, result.trace_ids)
    return own


def test_tree_is_designs():
    """The classes and their bases are those that users catch: none missing, none more."""
    public = {
        member
        for name, member in vars(errors).items()
        if inspect.isclass(member) and issubclass(member, BaseException) and not name.startswith("_")
    }
    assert public == set(TREE)


@pytest.mark.parametrize(("kind", "bases"), TREE.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_class_can_be_caught_as_its_bases(kind, bases):
    """Each error is caught by the root and by each of its bases."""
    for base in (*bases, LeadStatusError):
        with pytest.raises(base):
            raise example(kind)


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "way", [copy.deepcopy, copy.copy, own_copy, lambda error: pickle.loads(pickle.dumps(error))]
)
def test_error_survives_copying(kind, way):
    """Every error pickles and copies with class, text, arguments, attributes and notes."""
    error = example(kind)
    error.add_note("leads: 'a'")
    twin = way(error)
    assert twin is not error
    assert type(twin) is kind
    assert str(twin) == str(error)
    assert state(twin) == state(error)
    assert twin.__notes__ == ["leads: 'a'"]
    assert "".join(traceback.format_exception(twin))
    if kind is BatchError:
        assert [(type(one), str(one), state(one)) for one in twin.exceptions] == [
            (type(one), str(one), state(one)) for one in error.exceptions
        ]
    else:
        assert twin.args == error.args


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_error_survives_every_protocol(kind, protocol):
    """The older binary protocols, which some queues use, do as well."""
    twin = pickle.loads(pickle.dumps(example(kind), protocol))
    assert state(twin) == state(example(kind))


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_error_can_be_made_again_from_its_arguments(kind):
    """As task queues do, in JSON too but for groups, without what the call has added."""
    error = example(kind)
    twins = [type(error)(*error.args)]
    if kind is not BatchError:
        twins.append(type(error)(*json.loads(json.dumps(error.args))))
    for twin in twins:
        assert type(twin) is kind
        assert (str(twin), repr(twin)) == (str(error), repr(error))
        own = {name: value for name, value in state(error).items() if name not in FACTS}
        assert own.items() <= state(twin).items()


def test_errors_show_their_text():
    """Also what is made without our constructor, as classes of users' own may be."""
    assert repr(example(NotFoundError)) == "NotFoundError('HTTP 500 CODE: text. Do this')"
    assert str(example(BatchError)) == "two failed (2 sub-exceptions)"
    assert repr(example(BatchError)).startswith("BatchError('two failed', [BadRequestError('HTTP 400")

    class OwnError(LeadStatusError):
        def __init__(self, *args):
            Exception.__init__(self, *args)

    assert (str(OwnError("x")), repr(OwnError("x"))) == ("x", "OwnError('x')")


def test_defaults():
    """An error of a call that sent nothing has no attempts, no waiting, no leads and no result."""
    error = ConfigurationError("bad")
    assert (error.attempts, error.waited, error.lead_ids, error.result) == (0, 0.0, (), None)
    assert DeadlineExceededError().needed is None
    assert vars(ResponseError()).items() >= {"status": None, "trace_id": None, "snippet": ""}.items()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            BadRequestError(400, "VALIDATION_ERROR", "leadIds is invalid"),
            "HTTP 400 VALIDATION_ERROR: leadIds is invalid",
        ),
        (ServerError(503), "HTTP 503"),
        (ServerError(503, advice="Wait"), "HTTP 503. Wait"),
        (AuthenticationError(401, None, "no", advice="Check the key"), "HTTP 401: no. Check the key"),
        (NotFoundError(404, "X"), "HTTP 404 X"),
    ],
)
def test_status_error_text(error, text):
    """A status error reads: status, code, message, advice, leaving out what is not there."""
    assert str(error) == text


def test_status_error_takes_its_fields_in_order():
    """The positional order is fixed: status, code, message, details, trace_id, retry_after, lead_ids."""
    error = APIStatusError(429, "C", "m", [1, {"a": None}], "t", 2.5, ["x"])
    expected = {
        "status": 429,
        "code": "C",
        "message": "m",
        "details": [1, {"a": None}],
        "trace_id": "t",
        "retry_after": 2.5,
        "lead_ids": ("x",),
    }
    assert vars(error).items() >= expected.items()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (413, RequestTooLargeError),
        (414, RequestTooLargeError),
        (431, RequestTooLargeError),
        (429, RateLimitError),
        (502, UpstreamError),
        (500, None),
        (302, None),
        (200, None),
    ],
)
def test_class_of_a_status(status, kind):
    """The table holds the statuses that have a class of their own, and no other."""
    assert STATUS_ERRORS.get(status) is kind


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        (AuthenticationError(401), True),
        (PermissionDeniedError(403), True),
        (NotFoundError(404), True),
        (NotFoundError(404, fatal=False), False),
        *((UnexpectedStatusError(status), True) for status in (301, 302, 303, 307, 308)),
        *((UnexpectedStatusError(status), True) for status in (402, 405, 406, 407, 410, 418, 451, 499)),
        *((UnexpectedStatusError(status), False) for status in (300, 304, 399, 409, 422, 423, 425)),
        (UnexpectedStatusError(200), False),
        (UnexpectedStatusError(408), False),
        (BadRequestError(400), False),
        (RequestTooLargeError(414), False),
        (RateLimitError(429), False),
        (ServerError(500), False),
        (APIConnectionError("refused"), False),
        (MissingLeadError("no row"), False),
        (ValueError("other"), False),
    ],
    ids=repr,
)
def test_fatal(error, fatal):
    """Redirects and 4xx that concern no lead would meet every other request too (d10)."""
    assert is_fatal(error) is fatal


def test_invalid_ids_are_told_together():
    """All bad IDs are in `.bad` with their index; the text shows the first five, in ASCII, cut short."""
    bad = [
        (index, value, "is bad") for index, value in enumerate(["\ud83d", "x" * 500, 3, None, "e", "f", "g"])
    ]
    error = InvalidLeadIdError(bad)
    assert error.bad == [(index, value) for index, value, _ in bad]
    assert str(error).startswith("7 lead IDs cannot be asked for: index 0: '\\ud83d' is bad; index 1: 'xxx")
    assert str(error).isascii()
    assert "and 2 more, see .bad" in str(error)
    assert "index 5" not in str(error)
    assert len(str(error)) < 400
    assert str(InvalidLeadIdError(bad[2:3])) == "1 lead ID cannot be asked for: index 2: 3 is bad"


@pytest.mark.parametrize(
    "value", [threading.Lock(), lambda: None, [1], {"a": 1}, object()], ids=lambda v: type(v).__name__
)
def test_invalid_ids_of_any_kind_pickle(value):
    """What is no lead ID may be anything; the error still pickles and copies, with its repr."""
    error = InvalidLeadIdError([(3, value, "is no str"), (4, "a,b", "has a comma"), (5, 12, "is int")])
    assert error.bad[0][1] is value
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert twin.bad == [(3, repr(value)), (4, "a,b"), (5, 12)]
        assert str(twin) == str(error)


def test_own_copy_shares_no_notes():
    """A note that one caller adds is not seen by another (e5); the cause comes along."""
    error, cause = LimiterError("broken"), OSError("redis")
    error.__cause__ = cause
    error.add_note("shared")
    mine = own_copy(error)
    mine.add_note("mine")
    assert error.__notes__ == ["shared"]
    assert mine.__notes__ == ["shared", "mine"]
    assert mine.__cause__ is cause
    assert not hasattr(own_copy(LimiterError("broken")), "__notes__")


def group() -> BatchError:
    """Build a group of three different errors."""
    return BatchError(
        "three failed",
        [
            BadRequestError(400, lead_ids=["a"], attempts=1, waited=0.5),
            ServerError(500, lead_ids=["b", "c"], attempts=5, waited=0.25),
            MissingLeadError("no row", lead_ids=["d"]),
        ],
        result=RESULT,
    )


def test_group_sums_up_its_members():
    """The group knows the leads of its members, and the most attempts and the longest wait among them."""
    error = group()
    assert error.lead_ids == ("a", "b", "c", "d")
    assert (error.attempts, error.waited) == (5, 0.5)
    assert error.message == "three failed"
    assert BatchError("foreign", [OSError("x")]).lead_ids == ()


def test_split_keeps_the_result():
    """`split`, `subgroup` and `derive` make groups of the same kind that hold the same result."""
    matched, rest = group().split(APIStatusError)
    part = group().subgroup(lambda error: isinstance(error, MissingLeadError))
    derived = group().derive([ServerError(500)])
    for error, lead_ids in ((matched, "abc"), (rest, "d"), (part, "d"), (derived, "")):
        assert type(error) is BatchError
        assert error.result is RESULT
        assert error.lead_ids == tuple(lead_ids)
        assert error.message == "three failed"


def test_except_star_keeps_the_result():
    """What `except*` catches, and what it lets go on, hold the result."""
    caught: list[BatchError] = []
    with pytest.raises(BatchError) as rest:
        try:
            raise group()
        except* ServerError as error:
            caught.append(error)
    assert caught[0].result is RESULT
    assert [type(one) for one in caught[0].exceptions] == [ServerError]
    assert rest.value.result is RESULT
    assert [type(one) for one in rest.value.exceptions] == [BadRequestError, MissingLeadError]


def test_nested_group_splits():
    """A group inside another one keeps its own result."""
    outer = ExceptionGroup("outer", [group(), ValueError("other")])
    matched, _ = outer.split(ServerError)
    assert matched is not None
    assert matched.exceptions[0].result is RESULT


@pytest.mark.parametrize(
    ("retryable", "failed"),
    [
        (True, RateLimitError(429)),
        (True, UnexpectedStatusError(408)),
        *[(True, ServerError(status)) for status in (500, 501, 503, 504, 520)],
        (True, UpstreamError(502)),
        (True, APIConnectionError("refused")),
        (True, APITimeoutError("late")),
        (True, DeadlineExceededError("late")),
        (True, SessionClosedError("closed")),
        (True, ResponseDecodeError("odd")),
        (True, AuthenticationError(401, fatal=False)),  # a proxy's page, before an API that has answered
        (True, LimiterError("Redis is down", retryable=True)),
        (True, BatchError("some", [BadRequestError(400), ServerError(500)])),
        (False, BatchError("some", [BadRequestError(400), MissingLeadError("no row")])),
        (False, BatchError("some", [ValueError("no error of ours")])),
        (False, APIConnectionError("no certificate", retryable=False)),
        (False, LimiterError("broken")),
        (False, LeadStatusError("a bug")),
        (False, ConfigurationError("no")),
        (False, InvalidLeadIdError([(0, "", "is empty")])),
        (False, SessionLoopError("another loop")),
        (False, ResponseTooLargeError("large")),
        (False, MissingLeadError("no row")),
        *[(False, kind(status)) for status, kind in STATUS_ERRORS.items() if status not in (429, 502)],
        *[(False, UnexpectedStatusError(status)) for status in (200, 202, 302, 402, 409, 422)],
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, Exception) else "",
)
def test_retryable_tells_whether_asking_again_may_help(retryable, failed):
    """Each error says so, also when it was pickled, copied or made again."""
    assert failed.retryable is retryable
    for twin in (pickle.loads(pickle.dumps(failed)), copy.deepcopy(failed), type(failed)(*failed.args)):
        assert twin.retryable is retryable


def test_reasons_are_the_same_whatever_the_lead():
    """Failures can be counted by their reason; IDs are not in it."""
    same = [MissingLeadError(f"no row; there is one for '{lead_id}'") for lead_id in "ab"]
    assert {error.reason for error in same} == {"MissingLeadError: no row; there is one for another"}
    bad = InvalidLeadIdError([(0, "", "is empty"), (5, 7, "is int, not str"), (9, "", "is empty")])
    assert bad.reason == "InvalidLeadIdError: the ID is empty; is int, not str"
    assert ServerError(500, "C", "m").reason == "ServerError: HTTP 500 C: m"
