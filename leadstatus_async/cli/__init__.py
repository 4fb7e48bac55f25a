"""The `leadstatus` command (extra `cli`): `check` for bulk jobs, and smaller ones around it.

Data goes to stdout, words and progress to stderr. `__main__` is the way in and needs neither typer
nor rich to say that they are missing.
"""
