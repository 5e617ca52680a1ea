"""Work that was left undone."""


class Unfinished(Exception):
    """A command that did not do all of its work, and says what is left."""
