"""Every error this library raises, in one tree.

    LeadStatusError
     ├─ ConfigurationError (ValueError)        a setting or an argument is wrong; nothing was sent
     ├─ InvalidLeadIdError (ValueError)        lead IDs that cannot be asked for; nothing was sent
     ├─ SessionClosedError                     the session was closed before or during the call
     ├─ SessionLoopError                       the session belongs to another event loop
     ├─ LimiterError                           the limiter itself broke
     ├─ DeadlineExceededError (TimeoutError)   the call's own `deadline=` passed
     ├─ APIConnectionError                     no complete answer: refused, reset, cut off, TLS
     │   └─ APITimeoutError (TimeoutError)     an attempt took longer than `timeout`
     ├─ ResponseError                          an answer came, but cannot be used
     │   ├─ ResponseDecodeError
     │   ├─ ResponseTooLargeError
     │   └─ MissingLeadError
     ├─ APIStatusError                         the server said no
     │   ├─ BadRequestError 400                ├─ RequestTooLargeError 413, 414, 431
     │   ├─ AuthenticationError 401            ├─ RateLimitError 429
     │   ├─ PermissionDeniedError 403          ├─ ServerError 5xx ─ UpstreamError 502
     │   ├─ NotFoundError 404                  └─ UnexpectedStatusError
     └─ BatchError (ExceptionGroup)            several leads failed, for the reasons inside

Data only: no I/O, no clock, no randomness. All of them pickle and deepcopy, so that they survive
worker queues, and each can be made again from `type(error)(*error.args)`, as queues with JSON results do,
without what its call has added (`lead_ids`, `attempts`, `waited`, `result`). None ever holds a request, a
header or the API key. Lead IDs and trace ids are attributes, not text, so that equal failures read equal
and logs stay free of them.
"""

from __future__ import annotations

import copy
import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leadstatus_async.models import LeadFailure
    from leadstatus_async.results import BatchResult

_SHOWN = 5  # bad IDs in a message
_KINDS_SHOWN = 3  # kinds of failures, and leads, in one
_QUOTED = re.compile(r"'[^']*'")  # in what is told of a row whose ID came back in another spelling
_PLAIN = (str, int, float, bool, type(None))


def _restore(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class LeadStatusError(Exception):
    """The root: `except LeadStatusError` catches all that this library raises on purpose.

    Attributes:
        attempts: how many HTTP requests were sent before giving up; 0 where none was.
        waited: seconds spent in the queue, in pauses and in back-off.
        lead_ids: the leads concerned, in the order asked.
        result: on an error raised by a call, the `BatchResult` with every position; else None.
        retryable: whether asking again later may help: after a 408, 429 or 5xx, a lost connection, a timeout,
            a deadline, a closed session or a body that cannot be read. A group is if any of its errors is.
    """

    retryable: bool = False

    def __init__(
        self,
        message: str = "",
        *,
        lead_ids: Sequence[str] = (),
        attempts: int = 0,
        waited: float = 0.0,
        result: BatchResult[Any] | None = None,
    ) -> None:
        super().__init__(message)
        self._text = message
        self.lead_ids = tuple(lead_ids)
        self.attempts = attempts
        self.waited = waited
        self.result = result

    @property
    def reason(self) -> str:
        """What failed, in the same words whatever the lead: for counting failures."""
        return f"{type(self).__name__}: {self}"

    def __str__(self) -> str:
        return cast("str", self.__dict__.get("_text", super().__str__()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__.copy())

    def summary_of(self, failures: list[LeadFailure], result: BatchResult[Any]) -> LeadStatusError:
        """Return what a call raises for `failures`, of which this is one: see `raise_for_failures`."""
        return _summary(failures, result)


class ConfigurationError(LeadStatusError, ValueError):
    """A setting or argument is wrong. Raised before any I/O; names what, where and what is allowed."""


class InvalidLeadIdError(LeadStatusError, ValueError):
    """Lead IDs that cannot be asked for. Raised before any I/O, all bad ones at once.

    Attributes:
        bad: (index, value) of each, index counting from 0 in the list given.
    """

    def __init__(
        self, bad: Sequence[tuple[int, object, str] | Sequence[Any]], message: str | None = None
    ) -> None:
        shown = "; ".join(f"index {index}: {_brief(value)} {reason}" for index, value, reason in bad[:_SHOWN])
        more = f"; and {len(bad) - _SHOWN} more, see .bad" if len(bad) > _SHOWN else ""
        noun = "lead ID" if len(bad) == 1 else "lead IDs"
        super().__init__(message or f"{len(bad)} {noun} cannot be asked for: {shown}{more}")
        self.bad: list[tuple[int, object]] = [(index, value) for index, value, _ in bad]
        # What is no lead ID may be anything, and not every thing can be pickled or copied.
        self.args = ([(index, _plain(value), reason) for index, value, reason in bad], self._text)

    @property
    def reason(self) -> str:
        """See `LeadStatusError.reason`."""
        return f"InvalidLeadIdError: the ID {'; '.join(dict.fromkeys(reason for *_, reason in self.args[0]))}"

    def __reduce__(self) -> tuple[Any, ...]:
        bad = [(index, _plain(value)) for index, value in self.bad]
        return _restore, (type(self), self.args, {**self.__dict__, "bad": bad})


class SessionClosedError(LeadStatusError):
    """The session was closed, before this call or under it."""

    retryable = True


class SessionLoopError(LeadStatusError):
    """The session was used from another event loop than the one of its first use."""


class LimiterError(LeadStatusError):
    """The limiter raised something unexpected, which is this error's `__cause__`.

    Attributes:
        retryable: whether it could not be reached, as a limiter over a network may.
    """

    def __init__(self, message: str = "", retryable: bool = False, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retryable = retryable
        self.args = (message, retryable) if retryable else (message,)


class DeadlineExceededError(LeadStatusError, TimeoutError):
    """The call's `deadline=` passed before every lead was answered.

    Attributes:
        needed: seconds the unasked leads would have taken at the present rate, where that is known.
    """

    retryable = True

    def __init__(self, message: str = "", needed: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.needed = needed
        self.args = (message, needed)

    def told_of(self, failures: list[LeadFailure], result: BatchResult[Any]) -> Self:
        """Say for how many of all leads this holds, and what the hardest of them would have needed."""
        errors = [failure.error for failure in failures if isinstance(failure.error, DeadlineExceededError)]
        hardest = max(errors, key=lambda error: error.needed or 0.0)
        if len(failures) == 1:
            return self
        self.needed = hardest.needed
        self._text = f"{len(failures)} of {len(result)} leads unanswered: {hardest}"
        self.args = (self._text, self.needed)
        return self


class APIConnectionError(LeadStatusError):
    """No complete answer came: connection refused or lost, broken HTTP, or a TLS failure.

    Attributes:
        retryable: False of a failure of TLS, and of a proxy that refuses: they would again.
    """

    def __init__(self, message: str = "", retryable: bool = True, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retryable = retryable
        self.args = (message,) if retryable else (message, retryable)


class APITimeoutError(APIConnectionError, TimeoutError):
    """One attempt took longer than its `timeout`, or connecting longer than 10 seconds."""


class ResponseError(LeadStatusError):
    """An answer came but cannot be used.

    Attributes:
        status: HTTP status of the answer.
        trace_id: the API's `traceId`, for its support.
        snippet: the beginning of the body, as text.
    """

    def __init__(
        self,
        message: str = "",
        status: int | None = None,
        trace_id: str | None = None,
        snippet: str = "",
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.status = status
        self.trace_id = trace_id
        self.snippet = snippet
        self.args = (message, status, trace_id, snippet)


class ResponseDecodeError(ResponseError):
    """The body, or the row of one lead, is not what the API promises."""

    retryable = True


class ResponseTooLargeError(ResponseError):
    """The body is larger than `max_response_bytes` (after decompression)."""


class MissingLeadError(ResponseError):
    """The answer has no row for a lead that was asked for, which the API promises never to do."""

    @property
    def reason(self) -> str:
        """See `LeadStatusError.reason`."""
        return _QUOTED.sub("another", super().reason)


class APIStatusError(LeadStatusError):
    """The server answered, and said no.

    Attributes:
        status: HTTP status, of a response really received.
        code: the envelope's `error.code`, None where the body is no envelope.
        message: the envelope's `error.message`, or a snippet of what came instead.
        details: the envelope's `error.details`: a string by the reference, any JSON in practice.
        trace_id: the envelope's `traceId`.
        retry_after: seconds the server asked to wait, None where it did not say.
        fatal: whether every other request would meet it too, so that the call is stopped; by default as
            the status has it.
    """

    def __init__(
        self,
        status: int,
        code: str | None = None,
        message: str = "",
        details: Any = None,
        trace_id: str | None = None,
        retry_after: float | None = None,
        lead_ids: Sequence[str] = (),
        advice: str = "",
        fatal: bool | None = None,
        **facts: Any,
    ) -> None:
        head = f"HTTP {status}" + (f" {code}" if code else "")
        text = ". ".join(filter(None, [f"{head}: {message}" if message else head, advice]))
        super().__init__(text, lead_ids=lead_ids, **facts)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.trace_id = trace_id
        self.retry_after = retry_after
        self.fatal = stops_the_call(status) if fatal is None else fatal
        # What would stop a call, but does not, is the page of a proxy before an API that has answered.
        passing = stops_the_call(status) and not self.fatal
        self.retryable = status in {408, 429} or status >= 500 or passing
        self.args = (status, code, message, details, trace_id, retry_after, self.lead_ids, advice, self.fatal)


class BadRequestError(APIStatusError):
    """400: the server refuses the request as invalid."""


class AuthenticationError(APIStatusError):
    """401: the API key is missing, wrong or revoked."""


class PermissionDeniedError(APIStatusError):
    """403: the key lacks `campaigns:read` or access to the account group."""


class NotFoundError(APIStatusError):
    """404: no such account group or campaign."""


class RequestTooLargeError(APIStatusError):
    """413, 414 or 431, even for a single lead."""


class RateLimitError(APIStatusError):
    """429, or a pause longer than `max_retry_after` that a 429 has caused; see `retry_after`."""


class ServerError(APIStatusError):
    """5xx."""


class UpstreamError(ServerError):
    """502: a service behind the API, or a proxy in front of it, failed."""


class UnexpectedStatusError(APIStatusError):
    """A redirect, another undocumented status, or `success: false` inside a 200."""


class BatchError(LeadStatusError, ExceptionGroup[Exception]):
    """Some leads failed: one exception per distinct failure (class and message), each with `lead_ids`.

    `.result` holds every position, the answered ones too, and stays on what `split`, `subgroup` and
    `except*` make of this group.
    """

    def __new__(
        cls, message: str, exceptions: Sequence[Exception], *, result: BatchResult[Any] | None = None
    ) -> Self:
        """Build the group; arguments as those of `ExceptionGroup`, and the result to carry."""
        del result
        return super().__new__(cls, message, exceptions)

    def __init__(
        self, message: str, exceptions: Sequence[Exception], *, result: BatchResult[Any] | None = None
    ) -> None:
        attempts = max((getattr(error, "attempts", 0) for error in exceptions), default=0)
        waited = max((getattr(error, "waited", 0.0) for error in exceptions), default=0.0)
        lead_ids = [lead_id for error in exceptions for lead_id in getattr(error, "lead_ids", ())]
        super().__init__(message, lead_ids=lead_ids, attempts=attempts, waited=waited, result=result)
        self.retryable = any(getattr(error, "retryable", False) for error in exceptions)
        self.args = (message, list(exceptions))

    def __str__(self) -> str:
        return ExceptionGroup.__str__(self)

    def __repr__(self) -> str:
        return ExceptionGroup.__repr__(self)

    def derive(self, excs: Sequence[Exception], /) -> BatchError:  # type: ignore[override]
        """Return a group of `excs` with this group's message and result."""
        return BatchError(self.message, excs, result=self.result)


STATUS_ERRORS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    413: RequestTooLargeError,
    414: RequestTooLargeError,
    429: RateLimitError,
    431: RequestTooLargeError,
    502: UpstreamError,
}
"""The class for a status; any other 5xx is a `ServerError`, anything else `UnexpectedStatusError`."""


REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OF_LEADS_OR_THE_MOMENT = frozenset({400, 408, 409, 413, 414, 422, 423, 424, 425, 429, 431})


def stops_the_call(status: int) -> bool:
    """Whether every other request would be answered with this status too: redirects, most 4xx (d10)."""
    return status in REDIRECTS or (400 <= status < 500 and status not in _OF_LEADS_OR_THE_MOMENT)


def is_fatal(error: BaseException) -> bool:
    """Whether `error` has stopped its call."""
    return isinstance(error, APIStatusError) and error.fatal


def own_copy(error: LeadStatusError) -> LeadStatusError:
    """Copy an error, cause included: one object is never given to two callers (e5), nor are its notes."""
    try:
        own = copy.copy(error)
    except Exception:  # noqa: BLE001 - of somebody's own class: better shared than lost
        return error
    own.__cause__ = error.__cause__
    if hasattr(error, "__notes__"):
        own.__notes__ = list(error.__notes__)
    return own


def _summary(failures: list[LeadFailure], result: BatchResult[Any]) -> LeadStatusError:
    """Choose the error that tells the caller of `failures`: fatal, closed, too late, else a group."""
    for decisive in (is_fatal, _is(SessionClosedError), _is(DeadlineExceededError)):
        concerned = [failure for failure in failures if decisive(failure.error)]
        if concerned:
            error = for_caller(concerned, result)
            return error.told_of(concerned, result) if isinstance(error, DeadlineExceededError) else error
    distinct: dict[tuple[type[Exception], str], list[LeadFailure]] = {}
    for failure in failures:
        distinct.setdefault((type(failure.error), str(failure.error)), []).append(failure)
    kinds = ", ".join(
        f"{len(same)} {kind.__name__}" for (kind, _), same in islice(distinct.items(), _KINDS_SHOWN)
    )
    more = ", ..." if len(distinct) > _KINDS_SHOWN else ""
    others = "the others are in .result, " if len(failures) < len(result) else ""
    return BatchError(
        f"{len(failures)} of {len(result)} leads failed ({kinds}{more}); {others}"
        "campaign.retry(error.result) asks again for the failed ones",
        [for_caller(same, None) for same in distinct.values()],
        result=result,
    )


def _is(kind: type[Exception]) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, kind)


def for_caller(failures: list[LeadFailure], result: BatchResult[Any] | None) -> LeadStatusError:
    """Copy the first failure's error for raising, with all the leads it concerns."""
    fresh = own_copy(cast("LeadStatusError", failures[0].error))
    fresh.lead_ids = tuple(dict.fromkeys(failure.lead_id for failure in failures))
    fresh.result = result
    shown = ", ".join(map(ascii, fresh.lead_ids[:_KINDS_SHOWN]))
    more = f" and {len(fresh.lead_ids) - _KINDS_SHOWN} more" if len(fresh.lead_ids) > _KINDS_SHOWN else ""
    trace_id = getattr(fresh, "trace_id", None)
    trace = f"; trace id {trace_id}" if trace_id else ""
    attempts, waited = getattr(fresh, "attempts", 0), getattr(fresh, "waited", 0.0)
    fresh.add_note(f"leads: {shown}{more}; attempts: {attempts}, waited {waited:.1f} s{trace}")
    return fresh


def _plain(value: object) -> object:
    return value if type(value) in _PLAIN else _shown(value)


def _shown(value: object) -> str:
    try:
        return ascii(value)
    except Exception:  # noqa: BLE001 - of somebody's own class
        return f"<{type(value).__name__}>"


def _brief(value: object) -> str:
    text = _shown(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
