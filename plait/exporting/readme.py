"""The README of an exported folder: what goes in and out, for whoever has no Plait."""

from plait.data.history import ITEMS, Columns
from plait.exporting.exported import About, program_file
from plait.exporting.programs import Port

MEANING = {
    "item": "The items of the history, oldest first, padded on the right with 0.",
    "actions": "What the user did with each, in the log's units, NaN where missing. Columns: see Actions.",
    "time_s": "When, in unix seconds.",
    "request": "Equal for neighbours that were shown together; any whole numbers.",
    "length": "How many events of the row are real.",
    "before": "How many events the user had before the first of the row; 0 where the row is the whole history.",
    "candidates": "Items to score. Pad with 0, and forget the answers there.",
    "at_s": "When the candidates are shown, in unix seconds, not before the last event.",
}


def readme(about: About, columns: Columns) -> str:
    parts = [
        _head(about),
        _how_to_run(about),
        *(_program(name, about) for name in about.programs),
        _numbers(about, columns),
        _limits(about),
    ]
    return "\n\n".join(parts) + "\n"


def _head(about: About) -> str:
    left_out = "".join(
        f"\n\n**Left out: {what}.** The model answers with them; this export is the network alone, so its answers are "
        "others than the model's."
        for what in about.left_out
    )
    return (
        f"# An exported recommender\n\nLayout `{about.layout}`. Weights and arithmetic are fp32. "
        f"Model {about.model[:16]}, format version {about.format_version}, made by {', '.join(about.made_by)}."
        f"{left_out}{_counts(about)}"
    )


def _counts(about: About) -> str:
    """What of the answers is counted, by what the programs read."""
    read = {port.name for ports in about.programs.values() for port in ports.inputs}
    counted = {"met_item": "`rank`", "counted": "`score`"}
    inside = [program for name, program in counted.items() if name in read]
    if not inside:
        return ""
    return (
        f"\n\n**Counts are in the programs.** What counting adds to the answers of {' and '.join(inside)} is there: "
        "tables are gathered and added. Nothing is left to add."
    )


def _how_to_run(about: About) -> str:
    match about.format:
        case "onnx":
            return f"## Run it\n\n```python\n{_onnx_lines(about)}\n```"
        case "torch":
            return f"## Run it\n\n```python\n{_torch_lines(about)}\n```"


def _onnx_lines(about: About) -> str:
    lines = [
        "import numpy as np",
        "import onnxruntime",
        "",
        "def run(program, given):  # takes what it needs, gives arrays by name",
        '    session = onnxruntime.InferenceSession(f"{program}.onnx")',
        "    inputs = {each.name: given[each.name] for each in session.get_inputs()}",
        "    return dict(zip([each.name for each in session.get_outputs()], session.run(None, inputs)))",
        "",
    ]
    return _with_questions(lines, about)


def _torch_lines(about: About) -> str:
    lines = [
        "import json",
        "",
        "import numpy as np",
        "import torch",
        "",
        'about = json.load(open("export.json"))',
        "torch.set_grad_enabled(False)  # it answers, and learns no more",
        "",
        "def run(program, given):  # takes what it needs, gives tensors by name",
        '    names = [each["name"] for each in about["programs"][program]["inputs"]]',
        "    inputs = {name: torch.as_tensor(given[name]) for name in names}",
        '    return torch.export.load(f"{program}.pt2").module()(inputs)',
        "",
    ]
    return _with_questions(lines, about)


def _with_questions(lines: list[str], about: About) -> str:
    """The lines that define `run`, and those that use it, which are the same for every format."""
    asked = [f"history = {_history(about)}", 'state = run("encode", history)', *_answers(about)]
    return "\n".join([*lines, *asked])


def _history(about: About) -> str:
    """Two events of one user, in Python."""
    values = {
        "item": "np.array([[1, 1]])",
        "actions": f"np.full((1, 2, {len(about.actions)}), np.nan, np.float32)",
        "time_s": "np.array([[1_700_000_000, 1_700_000_060]])",
        "request": "np.array([[0, 1]])",
        "length": "np.array([2])",
        "before": "np.array([0])",
    }
    named = ", ".join(f'"{port.name}": {values[port.name]}' for port in about.programs["encode"].inputs)
    return "{" + named + "}"


def _answers(about: About) -> list[str]:
    """The lines that ask for actions of two candidates, and for the next items."""
    lines = []
    reads = {port.name for ports in about.programs.values() for port in ports.inputs}
    moment = ', "at_s": np.array([1_700_000_120])' if "at_s" in reads else ""
    if "score" in about.programs:
        lines.append(f'actions = run("score", state | {{"candidates": np.array([[1, 1]]){moment}}})')
    if "rank" in about.programs:
        given = f"state | {{{moment.removeprefix(', ')}}}" if moment else "state"
        lines += [
            f'logits = run("rank", {given})["logits"]',
            "best = np.argsort(-np.asarray(logits))[:, :10]",
        ]
    return lines


def _program(name: str, about: About) -> str:
    ports = about.programs[name]
    title = {
        "encode": "histories, once for each",
        "score": "what users would do with candidates",
        "rank": "which item comes next",
    }[name]
    table = [
        f"## `{program_file(name, about.format)}`: {title}",
        "",
        "| | name | type | shape | |",
        "|---|---|---|---|---|",
    ]
    table += [_row("in", port) for port in ports.inputs]
    table += [_row("out", port, _meaning_of_answer(name, port)) for port in ports.outputs]
    return "\n".join(table)


def _row(way: str, port: Port, meaning: str = "") -> str:
    shape = " x ".join(map(str, port.shape))
    said = meaning or MEANING.get(port.name, "As `encode` gives it.")
    return f"| {way} | `{port.name}` | {port.dtype} | {shape} | {said} |"


def _meaning_of_answer(program: str, port: Port) -> str:
    if program == "encode":
        return "For the other programs."
    if program == "rank":
        return "Of every item, by its number; -inf for number 0."
    if port.name.startswith("logits of "):
        return "The heads' outputs."
    return "What is expected, in the log's units; of one of several values, the probability of each."


def _numbers(about: About, columns: Columns) -> str:
    actions = "\n".join(
        f"| {nth} | `{action.name}` | {type(action.kind).__name__.lower()} | {_values(action.kind)} |"
        for nth, action in enumerate(about.actions)
    )
    told = (
        f"## Items\n\nNumber n is row n (from 1) of `{ITEMS}`, whose column `item_id` holds the "
        f"log's `{columns.item}`. "
        f"There are {about.num_items}. Number 0 is an item that the model does not know."
    )
    if not about.actions:
        return told
    return f"{told}\n\n## Actions\n\n| column | name | kind | values |\n|---|---|---|---|\n{actions}"


def _values(kind: object) -> str:
    outcomes = getattr(kind, "outcomes", ())
    if outcomes:
        return ", ".join(f"{code} = {value}" for code, value in enumerate(outcomes))
    low, high = kind.bounds  # type: ignore[attr-defined]
    return f"{low:g} to {high:g}"


def _limits(about: About) -> str:
    return (
        "## What to know\n\n"
        f"- Answers depend on the last {about.events_read} events alone. Give those, and say in `before` how many "
        "there were earlier; longer rows give the same answers and cost more.\n"
        "- Candidates come after the whole history, in a request of their own. They never see one another.\n"
        "- `score` holds users x heads x candidates x tokens numbers at a time: ask about a million in parts.\n"
        "- An action beyond its range is taken as the nearest value in it. Item numbers must be those of the table.\n"
        "- Seen items are not filtered.\n"
        "- `hashes.json` lists the SHA-256 of every file."
    )
