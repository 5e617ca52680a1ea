"""Prints docs/reference/cli.md from the commands' own help: `make docs`."""

import re

from plait.cli.app import app

HEAD = """# Command line

`plait --help` and `plait VERB --help` say the same. `make docs` makes this page from them.

`plait train` and `plait compare` also take every [setting](settings.md), such as `--protocol.max-epochs 20`.
[Errors](errors.md) says what the exit codes mean.
"""
SETTING = r"^\* `--(?:model|optim|protocol)\..*\n(?:    .*\n)*"  # they have a page of their own
EMPTY_GROUP = r"^\*\*(?:Model|Training|Protocol)\*\*:\n+(?=\*\*|#|\Z)"


def page() -> str:
    """The help as Markdown; blocks without a language, for nobody runs a usage line."""
    text = app.generate_docs(output_format="markdown").partition("## Table of Contents")[2]
    text = re.sub(SETTING, "", text, flags=re.MULTILINE).replace("```console", "```")
    text = re.sub(EMPTY_GROUP, "", text, flags=re.MULTILINE)
    text = text.replace(
        "(#plait-install-completion)", "(#plait---install-completion)"
    )  # as headings are called
    return f"{HEAD}\n## Verbs{text.rstrip()}\n"


if __name__ == "__main__":
    print(page(), end="")
