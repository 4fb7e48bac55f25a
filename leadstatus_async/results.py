"""What calls hand back: `BatchResult`, with its frozen figures.

Data only: no I/O, no clock, no randomness. All times are seconds as float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast, overload

from leadstatus_async import _tables
from leadstatus_async._figures import Figures
from leadstatus_async._html import at_a_glance
from leadstatus_async.models import LeadFailure, LeadStatus, WorkflowStatus

OutcomeT_co = TypeVar("OutcomeT_co", bound=LeadStatus | LeadFailure, covariant=True)


class BatchStats(Figures, frozen=True):
    """What one call cost.

    Attributes:
        requests: HTTP requests sent.
        retries: requests sent again for any reason but 429.
        splits: chunks cut in two because the server refused them whole.
        rate_limited: answers that were 429.
        foreign: rows for leads that were not asked for; dropped.
        cached: positions that were answered from memory (`max_age`).
        waited: seconds that requests of this call spent in the queue, in pauses and in back-off.
        elapsed: seconds from call to result.
    """

    requests: int = 0
    retries: int = 0
    splits: int = 0
    rate_limited: int = 0
    foreign: int = 0
    cached: int = 0
    waited: float = 0.0
    elapsed: float = 0.0


class Progress(Figures, frozen=True):
    """How far a call is, as told to its `progress` callback.

    Attributes:
        done: positions that have their outcome.
        total: positions in all; None where not known yet.
        failed: positions whose outcome is a `LeadFailure`.
        requests: HTTP requests sent.
        retries: requests sent again for any reason but 429.
    """

    done: int
    total: int | None
    failed: int
    requests: int
    retries: int


class Plan(Figures, frozen=True):
    """What a call would cost if nothing fails.

    Attributes:
        requests: HTTP requests.
        bytes: their request targets (path and query), added up.
        seconds: until the last request may go, at the present rate and pause; 0.0 without a rate.
    """

    requests: int
    bytes: int
    seconds: float


class SessionStats(Figures, frozen=True):
    """A snapshot of what a session has done since it was made.

    Attributes:
        requests: HTTP requests sent.
        retries: requests sent again for any reason but 429.
        splits: chunks cut in two because the server refused them whole.
        rate_limited: answers that were 429.
        leads: leads answered with a status by the server; duplicates in one list count once.
        failures: leads that were asked for and ended as a `LeadFailure`; not gets that ran out of time.
        waited: seconds that requests spent in the queue, in pauses and in back-off.
        in_flight: requests on the wire now.
        queued: calls waiting for a permit now.
    """

    requests: int = 0
    retries: int = 0
    splits: int = 0
    rate_limited: int = 0
    leads: int = 0
    failures: int = 0
    waited: float = 0.0
    in_flight: int = 0
    queued: int = 0


class BatchResult(Sequence[OutcomeT_co], Generic[OutcomeT_co]):
    """One outcome for every position asked, in input order; duplicates are answered at each position.

    A sequence of `LeadStatus` and `LeadFailure` (`outcome.ok` tells which). It pickles.

    Attributes:
        stats: what the call cost.
        trace_ids: the API's `traceId` of each answer that had one, for its support, in order of arrival.
    """

    __slots__ = ("_outcomes", "stats", "trace_ids")

    def __init__(
        self,
        outcomes: Sequence[OutcomeT_co],
        stats: BatchStats | None = None,
        trace_ids: Sequence[str] = (),
    ) -> None:
        self._outcomes = list(outcomes)
        self.stats = stats if stats is not None else BatchStats()
        self.trace_ids = tuple(trace_ids)

    @overload
    def __getitem__(self, index: int) -> OutcomeT_co: ...
    @overload
    def __getitem__(self, index: slice) -> list[OutcomeT_co]: ...
    def __getitem__(self, index: int | slice) -> OutcomeT_co | list[OutcomeT_co]:
        return self._outcomes[index]

    def __len__(self) -> int:
        return len(self._outcomes)

    def __iter__(self) -> Iterator[OutcomeT_co]:
        return iter(self._outcomes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BatchResult):
            return NotImplemented
        same = self._outcomes == other._outcomes  # pyright: ignore[reportUnknownMemberType]
        return same and self.stats == other.stats

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        failed = len(self.failures)
        return f"<BatchResult of {len(self)}: {len(self) - failed} answered, {failed} failed, {self.stats}>"

    def _repr_html_(self) -> str:
        """Return what notebooks show: a bar for each status, and why leads failed."""
        figures = self.stats
        told = {
            "leads": f"{len(self):,}",
            "requests": f"{figures.requests:,}",
            "retries": f"{figures.retries:,}",
            "answered 429": f"{figures.rate_limited:,}",
            "s": f"{figures.elapsed:.1f}",
        }
        return at_a_glance(self.counts, self.failures, told)

    @property
    def statuses(self) -> list[LeadStatus]:
        """The answers, in input order."""
        return [outcome for outcome in self._outcomes if isinstance(outcome, LeadStatus)]

    @property
    def failures(self) -> list[LeadFailure]:
        """The positions without an answer, in input order."""
        return [outcome for outcome in self._outcomes if isinstance(outcome, LeadFailure)]

    @property
    def failed_ids(self) -> list[str]:
        """The distinct lead IDs without an answer, in input order."""
        return list(dict.fromkeys(failure.lead_id for failure in self.failures))

    @property
    def by_id(self) -> dict[str, OutcomeT_co]:
        """Outcome by lead ID; an answer wins over a failure with the same text (of 5, which is not "5")."""
        found = {outcome.lead_id: outcome for outcome in self._outcomes}
        return found | {outcome.lead_id: outcome for outcome in self._outcomes if outcome.ok}

    @property
    def counts(self) -> Counter[WorkflowStatus]:
        """How many positions have which status; failures are not counted."""
        return Counter(status.workflow_status for status in self.statuses)

    def raise_for_failures(self) -> None:
        """Raise what an `on_error="raise"` call raises for these outcomes; return if all are answers.

        Raises:
            LeadStatusError: in this order: a fatal answer (401, 403, 404, redirect) as itself,
                `SessionClosedError`, `DeadlineExceededError`, else `BatchError`; `.result` is this.
        """
        failures = self.failures
        ours = [failure.error for failure in failures if hasattr(failure.error, "summary_of")]
        if ours:
            raise cast("_Summarizing", ours[0]).summary_of(failures, self)
        if failures:  # of the caller's own making
            raise ExceptionGroup(f"{len(failures)} leads failed", [failure.error for failure in failures])

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one flat row per position.

        The fields of `LeadStatus`, and `error` ("ClassName: message"), `error_type`, `http_status`,
        `error_code`, `trace_id`, `attempts` and `retryable`, all None where there is a status.
        """
        return _tables.rows(self._outcomes)

    def to_columns(self) -> dict[str, list[Any]]:
        """Return the rows of `to_dicts` as a list for each column."""
        return _tables.columns(self._outcomes)

    def to_arrow(self) -> Any:
        """Return the rows of `to_dicts` as a `pyarrow.Table`, for polars, pandas, duckdb and Parquet.

        Its schema is the same whatever came: texts, but for `has_pending_approval` and `retryable` (bool),
        `http_status` and `attempts` (int64). Give constructors this and not the result, which they would take
        for a column of objects.

        Raises:
            ImportError: pyarrow is not there; it comes with `leadstatus-async[arrow]`.
        """
        return _tables.arrow(self._outcomes)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Hand the rows to whatever takes Arrow's PyCapsule interface, as pandas and duckdb do."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_jsonl(self) -> str:
        """Return the rows of `to_dicts` as JSON lines, each ending in a newline."""
        return "".join(self.iter_jsonl())

    def to_csv(self) -> str:
        """Return the rows of `to_dicts` as CSV with a header line; None is an empty field."""
        return "".join(self.iter_csv())

    def iter_jsonl(self) -> Iterator[str]:
        """Yield the text of `to_jsonl` in parts of 1,000 rows: an event loop can go on in between."""
        return _tables.json_lines(self._outcomes)

    def iter_csv(self) -> Iterator[str]:
        """Yield the text of `to_csv` in parts of 1,000 rows: an event loop can go on in between."""
        return _tables.csv_lines(self._outcomes)


class _Summarizing(Protocol):
    """What every error of `leadstatus_async.errors` can do, which this module does not know."""

    def summary_of(self, failures: list[LeadFailure], result: BatchResult[Any]) -> Exception:
        """Return what a call raises for these failures."""
        ...
