"""Decisions, as pure functions: values in, values out.

What may live here imports none of asyncio, aiohttp, aiolimiter, redis, time, random, logging: the
clock and the dice are arguments. A test walks the imports. Whatever waits lives one level up.
"""
