"""What is printed on a console whose encoding lacks a sign."""

import codecs
import io
from collections.abc import Iterable

ON_OLD_CONSOLES = str.maketrans("±×–−…·■†‡‼│━╸╺─", "~x--~.#^&!|----")  # noqa: RUF001


def encode_all(streams: Iterable[object]) -> None:
    """What an old console cannot show is shown otherwise, by its nearest sign or its number, and stops nothing.

    >>> import io
    >>> stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    >>> encode_all([stream])
    >>> stream.write("0.18 ±.02 of 3× Amélie") and stream.flush()
    >>> stream.buffer.getvalue()
    b'0.18 ~.02 of 3x Am\\\\xe9lie'
    """
    codecs.register_error("plait", _nearest)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plait")


def _nearest(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeEncodeError), error
    text = error.object[error.start : error.end]
    plain = text.translate(ON_OLD_CONSOLES)
    return plain.encode("ascii", errors="backslashreplace").decode("ascii"), error.end
