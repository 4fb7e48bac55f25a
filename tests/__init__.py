"""The tests. Those named `_functional` open sockets, all on loopback."""
