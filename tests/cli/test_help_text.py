"""The sentences of `--help`: of every verb, and of every option."""

import inspect
import re
from collections.abc import Iterator

from cyclopts import App
from tiny import assert_caught
from words import commands

LONGEST = 30  # words


def help_texts(command: App) -> Iterator[str]:
    """What a verb says of itself, without its example, and of each of its arguments."""
    yield (
        (inspect.getdoc(command.default_command) or "")
        .partition("\nParameters\n")[0]
        .partition("Example:")[0]
    )
    for argument in command.assemble_argument_collection(parse_docstring=True):
        yield argument.parameter.help or ""


def sentences_of(text: str) -> list[str]:
    """
    >>> sentences_of("Shares of the events. Without it, .5 and the rest. none: a choice.")
    ['Shares of the events.', 'Without it, .5 and the rest.', 'none: a choice.']
    """
    return re.split(r"(?<=[.!?])\s+", " ".join(text.split()))


def check_short(text: str) -> None:
    for sentence in sentences_of(text):
        assert len(sentence.split()) <= LONGEST, sentence


def test_no_sentence_of_help_is_long() -> None:
    verbs = [command for _, command in commands() if command.default_command]
    texts = [text for verb in verbs for text in help_texts(verb) if text]
    assert len(verbs) >= 10 and len(texts) > 200
    for text in texts:
        check_short(text)


def test_a_long_sentence_is_caught() -> None:
    assert_caught(check_short, "Short ones may follow. " + "word " * LONGEST + "after word.")


def test_every_argument_says_what_it_is() -> None:
    for path, command in commands():
        if command.default_command:
            silent = [
                argument.name
                for argument in command.assemble_argument_collection(parse_docstring=True)
                if argument.parameter.parse is not False and argument.show and not argument.parameter.help
            ]
            assert not silent, f"plait {' '.join(path)}: {silent}"
