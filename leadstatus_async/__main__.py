"""`python -m leadstatus_async`: the same as `leadstatus`."""

from leadstatus_async.cli.__main__ import main

if __name__ == "__main__":
    main()
