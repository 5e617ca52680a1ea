"""Work that was left undone, and work that found what must not be."""


class Unfinished(Exception):
    """A command that did not do all of its work, and says what is left."""


class Disagreement(Exception):
    """A check that found what should agree apart, and says where."""
