"""The one exception that is meant for the person at the keyboard."""

__all__ = ["UserError"]


class UserError(Exception):
    """Something the user can put right. Its text is one line; commands print it and exit with 2."""
