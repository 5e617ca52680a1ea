"""The table of verbs: each stands in the file of its name, which is loaded when the verb is asked for."""

import ast
from importlib.abc import InspectLoader
from importlib.util import find_spec

from cyclopts import App, UnknownCommandError

app = App(
    name="plait",
    help="""Generative recommendation where the item/action layout is one line of data.

    Example: plait compare ml-100k --layouts item,lac --seeds 2 --out runs/ml-100k
    """,
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)


def description_of(verb: str) -> str:
    """What a verb, MODULE:FUNCTION, says of itself, read from its source: to load it may be to load torch.

    >>> description_of("plait.cli.evaluate:evaluate").splitlines()[0]
    'Prints the test metrics of a finished run, with 95 % intervals over users.'
    """
    module, _, function = verb.partition(":")
    spec = find_spec(module)
    assert spec is not None and isinstance(spec.loader, InspectLoader), verb
    tree = ast.parse(spec.loader.get_source(module) or "")
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    return ast.get_docstring(functions[function]) or ""


ABOUT_DATA = """Datasets: those Plait knows, and your own logs.

Example: plait data get ml-100k
"""
ABOUT_LUM = """Large user models: trained once, asked for what users want, and read by rankers as features.

Example: plait lum query runs/lum --condition scenario=search --out interests.parquet
"""
ABOUT_RANKERS = """Rankers: DIN, DIEN, SIM, TWIN and RankMixer, trained and tested like layouts.

Example: plait rank train ml-100k --ranker din --out runs/din
"""
ABOUT_BENCH = """Measures: what a service takes under load.

Example: plait bench serve runs/lac --rates 5,20
"""
HELD_BY_APPS = {
    "bench": ABOUT_BENCH,
    "data": ABOUT_DATA,
    "rank": ABOUT_RANKERS,
    "lum": ABOUT_LUM,
    "layouts": description_of("plait.cli.layouts:list_layouts"),
}
IN_ORDER_OF_WORK = (
    "data", "simulate", "layouts", "compare", "train", "rank", "evaluate", "recommend", "score", "similar",
    "index", "check", "export", "lum", "serve", "bench", "new-key", "study",
)  # fmt: skip

for place, verb in enumerate(IN_ORDER_OF_WORK):
    if verb in HELD_BY_APPS:
        app.command(f"plait.cli.{verb}:app", name=verb, help=HELD_BY_APPS[verb], sort_key=place)
    else:
        name = verb.replace("-", "_")
        function = f"plait.cli.{name}:{name}"
        app.command(function, name=verb, help=description_of(function), sort_key=place)
app.command(
    "plait.cli.completion:install_completion",
    name="--install-completion",
    help=description_of("plait.cli.completion:install_completion"),
)


def with_names_only(error: UnknownCommandError) -> UnknownCommandError:
    """The same complaint. To list the verbs that there are, cyclopts would load each of them."""
    names = App()
    for name in error.app or ():
        if not name.startswith("-"):
            names.command(App(name=name))
    error.app = names
    return error
