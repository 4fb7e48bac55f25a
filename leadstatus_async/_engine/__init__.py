"""What waits: who may send next, one attempt, one job, and the only folder that knows aiohttp."""
