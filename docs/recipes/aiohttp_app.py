"""aiohttp.web: one session per application, in a cleanup context.

`GET  /accounts/{account}/campaigns/{campaign}/leads/{lead_id}` answers with one status; `POST` to
`.../leads` takes a JSON list of lead IDs and answers with one row for each, in the order asked.

Who cannot be answered within DEADLINE seconds gets a 429 with `Retry-After` from us. Run it with
SONARLY_API_KEY set: `python docs/recipes/aiohttp_app.py`.
"""

import math
import os
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler

from leadstatus_async import (
    Campaign,
    ConfigurationError,
    DeadlineExceededError,
    InvalidLeadIdError,
    LeadStatusError,
    LeadStatusSession,
    NotFoundError,
    RateLimit,
    RateLimitError,
)

DEADLINE = float(os.environ.get("DEADLINE", "2.0"))  # seconds a caller of ours is let wait
SESSION = web.AppKey("session", LeadStatusSession)


async def lead_status(app: web.Application) -> AsyncIterator[None]:
    async with LeadStatusSession(rate_limit=RateLimit(20, per=1.0)) as session:
        app[SESSION] = session
        yield


@web.middleware
async def refusing(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except LeadStatusError as error:
        status, headers = 502, {}  # our key, our quota, our upstream: nothing the caller could mend
        if isinstance(error, RateLimitError | DeadlineExceededError):
            stated = error.retry_after if isinstance(error, RateLimitError) else error.needed
            seconds = stated or request.app[SESSION].limiter.wait_time()
            status, headers = 429, {"Retry-After": str(max(1, math.ceil(seconds)))}
        elif isinstance(error, InvalidLeadIdError | ConfigurationError):
            status = 422
        elif isinstance(error, NotFoundError):
            status = 404
        return web.json_response({"error": type(error).__name__}, status=status, headers=headers)


def campaign(request: web.Request) -> Campaign:
    return request.app[SESSION].campaign(request.match_info["account"], request.match_info["campaign"])


async def one(request: web.Request) -> web.Response:
    status = await campaign(request).get(request.match_info["lead_id"], deadline=DEADLINE)
    return web.json_response(status.to_dict())


async def many(request: web.Request) -> web.Response:
    result = await campaign(request).get_many(await request.json(), on_error="collect", deadline=DEADLINE)
    return web.json_response(result.to_dicts())


app = web.Application(middlewares=[refusing])
app.cleanup_ctx.append(lead_status)
app.router.add_get("/accounts/{account}/campaigns/{campaign}/leads/{lead_id}", one)
app.router.add_post("/accounts/{account}/campaigns/{campaign}/leads", many)

if __name__ == "__main__":
    # Without handler_cancellation aiohttp goes on asking for callers who have hung up.
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")), handler_cancellation=True)
