"""The `leadstatus` command (extra `cli`): `demo` and `check`.

Data goes to stdout, words and progress to stderr. `__main__` is the way in and needs neither typer
nor rich to say that they are missing.
"""
