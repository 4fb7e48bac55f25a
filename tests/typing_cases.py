"""What type checkers know of outcomes and calls: checked by mypy and pyright, never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, assert_type

from leadstatus_async import BatchResult, Campaign, LeadFailure, LeadStatus

if TYPE_CHECKING:
    from leadstatus_async import LeadStatusSession


def outcomes_narrow(outcome: LeadStatus | LeadFailure) -> None:
    """By class, by `match`, and by `ok` in an `is`."""
    if outcome.ok is True:
        assert_type(outcome, LeadStatus)
    else:
        assert_type(outcome, LeadFailure)
    match outcome:
        case LeadStatus():
            assert_type(outcome, LeadStatus)
        case LeadFailure(error=error):
            assert_type(error, Exception)
    if isinstance(outcome, LeadFailure):
        return
    assert_type(outcome, LeadStatus)
    assert_type(outcome.ok, Literal[True])


async def calls_know_their_outcomes(campaign: Campaign, session: LeadStatusSession) -> None:
    """With "raise" there are statuses only, with "collect" failures too."""
    assert_type(await campaign.get_many(["a"]), BatchResult[LeadStatus])
    collected = await campaign.get_many(["a"], on_error="collect")
    assert_type(collected, BatchResult[LeadStatus | LeadFailure])
    assert_type(await campaign.retry(collected), BatchResult[LeadStatus])
    assert_type(collected.failures, list[LeadFailure])
    assert_type(session.stats.to_dict(), dict[str, Any])
    async for status in campaign.stream(["a"]):
        assert_type(status, LeadStatus)
    async for outcome in campaign.stream(["a"], on_error="collect"):
        assert_type(outcome, LeadStatus | LeadFailure)


async def options_change_what_comes(campaign: Campaign) -> None:
    """A campaign that collects gives failures too, unless a call says otherwise."""
    collecting = campaign.with_options(on_error="collect", timeout=2.0)
    assert_type(collecting, Campaign[LeadStatus | LeadFailure])
    assert_type(await collecting.get_many(["a"]), BatchResult[LeadStatus | LeadFailure])
    assert_type(
        await collecting.with_options(deadline=2).get_many(["a"]), BatchResult[LeadStatus | LeadFailure]
    )
    assert_type(await collecting.get_many(["a"], on_error="raise"), BatchResult[LeadStatus])
    assert_type(await collecting.with_options(on_error="raise").get_many(["a"]), BatchResult[LeadStatus])
    assert_type(await collecting.get("a"), LeadStatus)
    async for outcome in collecting.stream(["a"]):
        assert_type(outcome, LeadStatus | LeadFailure)
    plain: Campaign = campaign.with_options(max_attempts=1)
    assert_type(plain, Campaign[LeadStatus])
