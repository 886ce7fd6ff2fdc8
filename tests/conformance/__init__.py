"""The tests that hold every event loop of ours to the standard library's behaviour.

CPython's own tests (`test.test_asyncio`) and a contract of our own run with each loop as
subject, each test in a forked child with its own time limit, so that a hang is a failure
like any other. `run.py` is the same thing as a command for whoever works on a loop.
"""
