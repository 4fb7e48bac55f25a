"""Pure functions, a file for each word of the flow: values in, values out; clock and dice are arguments.

What may live here imports none of asyncio, aiohttp, aiolimiter, redis, time, random, logging; a test walks
the imports. Whatever waits, or remembers, stands above.
"""
