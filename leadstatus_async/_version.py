"""The version: the one place it is written. The build and the User-Agent read it from here."""

__version__ = "0.1.0"
