"""Text of any encoding as UTF-8."""

import codecs

import numpy as np

from plait.data.logs.containers import Content
from plait.wording import setting

BLOCK_BYTES = 1 << 18
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def to_utf8(content: Content, encoding: str | None) -> tuple[Content, str]:
    """The content in UTF-8 without a byte order mark, and what it was written in.

    Raises:
        ValueError: it is not in that encoding; where none was given, the message names the likely one.
    """
    marked = next((name for mark, name in MARKS if content.head.startswith(mark)), "utf-8")
    encoding = encoding or marked
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig" if marked == "utf-8-sig" else "utf-8"
    if encoding == "utf-8":
        _check_utf8(content)
        return content, encoding
    data = content.data.tobytes()
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{content.name} is not {encoding}: {error.reason} in line {_line_of(content.data, error.start)}"
        ) from None
    return content.replaced(text.removeprefix("\ufeff").encode()), encoding.removesuffix("-sig")


def _check_utf8(content: Content) -> None:
    fault = _first_fault(content)
    if fault is None:
        if 0 in content.data[:BLOCK_BYTES]:
            raise ValueError(_binary_message(content))
        return
    likely = _likely_encoding(content.data, fault)
    if likely is None:
        raise ValueError(_binary_message(content))
    where = f"line {_line_of(content.data, fault)} holds the byte 0x{content.data[fault]:02X}"
    raise ValueError(_likely_message(content, where, likely))


def _first_fault(content: Content) -> int | None:
    """Where the first byte stands that is not UTF-8. Blocks of ASCII alone, which are most, are not decoded."""
    rest, place = b"", 0
    for block in content.blocks(BLOCK_BYTES):
        if rest or not block.isascii():
            block = rest + block
            place -= len(rest)
            try:
                _, used = codecs.utf_8_decode(block, "strict", place + len(block) == len(content.data))
            except UnicodeDecodeError as error:
                return place + error.start
            rest = block[used:]
        place += len(block)
    return None


def _likely_encoding(data: np.ndarray, fault: int) -> str | None:
    """By the first bytes and those around the fault; None where it is hardly text."""
    zero = data[:BLOCK_BYTES] == 0
    even, odd = zero[::2].mean(), zero[1::2].mean() if len(zero) > 1 else 0.0
    if max(even, odd) > 0.25 and min(even, odd) < 0.1:
        return "utf-16-le" if odd > even else "utf-16-be"
    if zero.any():
        return None
    near = data[fault : fault + BLOCK_BYTES]
    return "cp1252" if ((near >= 0x80) & (near < 0xA0)).any() else "latin-1"


def _binary_message(content: Content) -> str:
    likely = _likely_encoding(content.data, 0)
    if likely is not None:
        return _likely_message(content, "it holds zero bytes", likely)
    return (
        f"{content.name} cannot be read: it is neither text nor Parquet nor Arrow (IPC). It may be cut off or of "
        "another format; fetch it again"
    )


def _likely_message(content: Content, found: str, likely: str) -> str:
    return (
        f"{content.name} is not UTF-8: {found}. It is likely {likely}: pass "
        f"{setting('text.encoding', likely)}, or save it as UTF-8"
    )


def _line_of(data: np.ndarray, place: int) -> int:
    return int(np.count_nonzero(data[:place] == ord("\n"))) + 1
