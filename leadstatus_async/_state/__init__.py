"""Pure state machines: what has been seen and learned so far, fed with values; the clock is an argument.

What may live here imports none of asyncio, aiohttp, aiolimiter, redis, time, random, logging; a test walks
the imports. Whatever waits stands above.
"""
