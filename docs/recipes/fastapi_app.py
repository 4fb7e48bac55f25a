"""FastAPI: one session per application, opened and closed by its lifespan.

`GET .../leads/{lead_id}` answers with one status, which may be MAX_AGE seconds old: a page that is reloaded
spends no quota, and web requests that wait together share requests to the API. `POST .../leads` takes a JSON
list of lead IDs and streams one JSON line for each. `GET /healthz` tells what the session has done. Who
cannot be answered within DEADLINE seconds gets a 429 with `Retry-After` from us. Run it with SONARLY_API_KEY
set, on one event loop per process: `python docs/recipes/fastapi_app.py`.
"""

import json
import math
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from leadstatus_async import LeadStatusError, LeadStatusSession, RateLimit, errors

DEADLINE = float(os.environ.get("DEADLINE", "2.0"))  # seconds a caller of ours is let wait
MAX_AGE = float(os.environ.get("MAX_AGE", "5.0"))  # seconds that a status may be old


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, Any]]:
    async with LeadStatusSession(rate_limit=RateLimit(20, per=1.0), cache_size=10_000) as session:
        yield {"session": session}


app = FastAPI(lifespan=lifespan)


@app.get("/accounts/{account}/campaigns/{campaign}/leads/{lead_id}")
async def one(account: str, campaign: str, lead_id: str, request: Request) -> Any:
    web = request.state.session.campaign(account, campaign).with_options(deadline=DEADLINE, max_age=MAX_AGE)
    return (await web.get(lead_id)).to_dict()


@app.post("/accounts/{account}/campaigns/{campaign}/leads")
async def many(account: str, campaign: str, lead_ids: list[str], request: Request) -> StreamingResponse:
    # "collect": by the time a lead fails, the 200 has long been sent, so it has to fail in a line.
    stream = request.state.session.campaign(account, campaign).stream(lead_ids, on_error="collect")

    async def lines() -> AsyncGenerator[str]:
        async with stream:  # a caller who hangs up cancels what is in flight
            async for outcome in stream:
                yield json.dumps(outcome.to_dict()) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@app.get("/healthz")
async def healthz(request: Request) -> Any:
    session = request.state.session
    stats, limit = session.stats.to_dict(), session.rate_limit_state.to_dict()
    return {"outage": session.outage, "stats": stats, "limit": limit}  # an outage is the API's, not ours


@app.exception_handler(LeadStatusError)
async def refuse(request: Request, error: LeadStatusError) -> JSONResponse:
    status, headers = 502, {}  # our key, our quota, our upstream: nothing the caller could mend
    if isinstance(error, errors.RateLimitError | errors.DeadlineExceededError):
        stated = error.retry_after if isinstance(error, errors.RateLimitError) else error.needed
        seconds = stated or request.state.session.limiter.wait_time()
        status, headers = 429, {"Retry-After": str(max(1, math.ceil(seconds)))}
    elif isinstance(error, errors.InvalidLeadIdError | errors.ConfigurationError):
        status = 422
    elif isinstance(error, errors.NotFoundError):
        status = 404
    return JSONResponse({"error": type(error).__name__}, status, headers)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
