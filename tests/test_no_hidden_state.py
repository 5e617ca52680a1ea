"""What a caller's process and Plait do to each other: nothing. Draws, modes and types are of each training alone."""

import ast
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny import ACTIONS, assert_caught, assert_not_vacuous, random_log

import plait
from plait import Dataset, ModelSettings, Optim, Protocol, Recommender
from plait.data.simulator import World, simulate
from plait.models.generative import GenerativeRecommender
from plait.models.late import LateSettings
from plait.nn import trunk
from plait.nn.config import TrunkConfig
from plait.nn.encoders import ItemEncoding
from plait.nn.losses import RetrievalLoss
from plait.nn.positions import Angles
from plait.nn.towers import TowerConfig
from plait.randomness import Randomness
from plait.schema import Category, Feature
from plait.training import loop

PACKAGE = Path(plait.__file__).parent
PROTOCOL = Protocol(max_events=6, max_epochs=2)
OPTIM = Optim(learning_rate=1e-2, users_per_step=5, precision="fp32")
SAMPLED = RetrievalLoss(kind="sampled", num_negatives=5)


def settings(positions: str = "learned", kind: str = "gpt", **choices: object) -> ModelSettings:
    shape = TrunkConfig(kind=kind, dim=12, num_layers=2, num_heads=2, dropout=0.25, positions=positions)
    return replace(
        ModelSettings(trunk=shape, retrieval=SAMPLED, items=ItemEncoding(id_dropout=0.3)), **choices
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The random log, its items in two groups: a training on it draws in every way there is."""
    log = random_log()
    items = log.select("item").unique().sort("item")
    items = items.with_columns(
        pl.when(pl.col("item") < "i07").then(pl.lit("a")).otherwise(pl.lit("b")).alias("group")
    )
    return plait.prepare(
        log,
        user="user",
        item="item",
        time="time",
        actions=list(ACTIONS),
        out=tmp_path_factory.mktemp("hidden") / "data",
        min_item_events=1,
        items=items,
        item_features=[Feature("group", Category())],
    )  # fmt: skip


def trained(data: Dataset, model: ModelSettings = settings(), **callbacks: object) -> Recommender:
    callbacks = {"report": lambda line: None, **callbacks}
    return plait.fit(data, layout="lac", model=model, optim=OPTIM, protocol=PROTOCOL, **callbacks)


def assert_same_weights(found: Recommender, expected: Recommender) -> None:
    """Bit for bit."""
    weights = found.model.state_dict()
    assert weights.keys() == expected.model.state_dict().keys()
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(weights[name], tensor), name


def check_threads_do_not_meet(data: Dataset) -> None:
    alone = trained(data)
    with ThreadPoolExecutor(3) as threads:
        for each in [threads.submit(trained, data) for _ in range(3)]:
            assert_same_weights(each.result(), alone)


def test_trainings_in_threads_are_as_one_alone(data):
    check_threads_do_not_meet(data)


def test_a_generator_that_trainings_share_is_caught(data, monkeypatch):
    shared = torch.Generator().manual_seed(0)
    monkeypatch.setattr(Randomness, "of", lambda seed, device: Randomness(shared, shared))
    assert_caught(check_threads_do_not_meet, data)


def draw(*_: object) -> None:
    """What a callback of the user's may do."""
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002
    random.random()
    torch.manual_seed(int(torch.randint(1000, ())))


def test_callbacks_may_draw(data):
    assert_same_weights(trained(data, report=draw, watch=draw), trained(data))


def test_what_the_caller_drew_before_decides_nothing(data):
    torch.manual_seed(1)
    first = trained(data)
    torch.manual_seed(2)
    assert_same_weights(trained(data), first)


def test_another_seed_is_another_model(data):
    other = plait.fit(
        data, layout="lac", model=settings(), optim=OPTIM, protocol=replace(PROTOCOL, seed=1), report=draw
    )
    with pytest.raises(AssertionError):
        assert_same_weights(other, trained(data))


def states() -> tuple[bytes, str]:
    """Of torch and numpy. Python's own is moved by the checks of types under which tests run; that no module draws
    from it is read in the sources, below."""
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state())  # noqa: NPY002


def everything(data: Dataset, folder: Path) -> Iterator[str]:
    """A call of every kind, and its name after it."""
    model = trained(data)
    yield "fit"
    GenerativeRecommender(model.model.config)
    yield "construct"
    model.save_pretrained(folder / "model")
    yield "save"
    model = Recommender.from_pretrained(folder / "model")
    yield "load"
    state = model.encode(random_log())
    yield "encode"
    model.retrieve(state, k=3, filter_seen=False)
    model.score(state, ["i01", "i02"])
    yield "answer"
    plait.prepare(
        random_log(), user="user", item="item", time="time", actions=list(ACTIONS), out=folder / "data"
    )
    yield "prepare"
    simulate(World(num_users=5, num_events=6, num_items=9), folder / "world")
    yield "simulate"


def check_callers_generators_stay(data: Dataset, folder: Path) -> None:
    before, named = states(), []
    for name in everything(data, folder):
        assert states() == before, name
        named.append(name)
    assert_not_vacuous({"calls": len(named)}, above=6)


def test_the_callers_generators_stay_where_they_were(data, tmp_path):
    check_callers_generators_stay(data, tmp_path)


def test_a_generator_that_is_moved_is_caught(data, tmp_path, monkeypatch):
    right = loop.torch_generator

    def seeding(*given: object) -> torch.Generator:
        torch.manual_seed(0)
        return right(*given)

    monkeypatch.setattr(loop, "torch_generator", seeding)
    torch.manual_seed(1)
    assert_caught(check_callers_generators_stay, data, tmp_path)


@contextmanager
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES: dict[str, Callable] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64": float64_by_default,
}
MODELS = {
    "gpt-rope": settings("rope"),
    "gpt-rab": settings("rab", retrieval=RetrievalLoss(kind="full")),
    "gpt-alibi": settings("alibi", tower=TowerConfig(kind="ple")),
    "hstu-genrank": settings(
        "genrank", "hstu", retrieval=RetrievalLoss(kind="info_nce", log_q="both", l2_norm=True)
    ),
    "hstu-late": settings(
        "learned", "hstu", late=LateSettings(windows=(2,)), tower=TowerConfig(kind="mmoe", gate="ppnet")
    ),
}
CASES = [("no_grad", "gpt-rope"), ("inference_mode", "hstu-late"), *(("float64", name) for name in MODELS)]


def modes() -> tuple[bool, bool, torch.dtype]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()


def answers(model: Recommender) -> list[np.ndarray]:
    state = model.encode(random_log().filter(pl.col("user") < "u04"))
    scores = model.score(state, ["i01", "i02"], at=2_000_000)
    ranked = model.retrieve(state, k=3, filter_seen=False, at=2_000_000)
    return [frame[name].to_numpy() for frame in (scores, ranked) for name in frame.columns[2:]]


def check_modes_do_no_harm(data: Dataset, mode: Callable, model: ModelSettings, folder: Path) -> None:
    """The model that is trained without the mode and its answers, bit for bit, and the mode is as it was."""
    expected = trained(data, model)
    plain = answers(expected)
    with mode():
        before = modes()
        found = trained(data, model)
        found.save_pretrained(folder / "model")
        inside = answers(Recommender.from_pretrained(folder / "model"))
        assert modes() == before != (True, False, torch.float32)
    assert_same_weights(found, expected)
    assert len(plain) > 2
    for one, other in zip(inside, plain, strict=True):
        assert np.array_equal(one, other) and one.dtype == other.dtype


@pytest.mark.parametrize(("mode", "name"), CASES)
def test_the_callers_modes_do_no_harm(data, mode, name, tmp_path):
    check_modes_do_no_harm(data, MODES[mode], MODELS[name], tmp_path)


def test_numbers_of_the_callers_type_are_caught(data, tmp_path, monkeypatch):
    right = trunk.rope_angles

    def as_the_caller_likes(*given: object) -> Angles:
        return Angles(*(angle.to(torch.get_default_dtype()) for angle in right(*given)))

    monkeypatch.setattr(trunk, "rope_angles", as_the_caller_likes)
    assert_caught(check_modes_do_no_harm, data, float64_by_default, MODELS["gpt-rope"], tmp_path)


# Calls that draw from a generator of the process, or set something of the whole process, and what makes them harmless.
TORCH_DRAWS = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli",
    "multinomial", "poisson",
}  # fmt: skip
IN_PLACE_DRAWS = {
    "random_", "normal_", "uniform_", "bernoulli_", "exponential_", "cauchy_", "geometric_", "log_normal_",
    "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "orthogonal_",
    "sparse_",
}  # fmt: skip
DROPOUTS = {"dropout", "alpha_dropout", "feature_dropout", "Dropout", "AlphaDropout"}
SETS_PROCESS = {
    "manual_seed_all", "set_rng_state", "set_rng_state_all", "default_generator", "fork_rng",
    "set_default_dtype", "set_default_device", "set_default_tensor_type", "set_num_threads",
    "set_num_interop_threads", "set_grad_enabled", "use_deterministic_algorithms", "simplefilter", "filterwarnings",
}  # fmt: skip
OWN_GENERATORS = {"default_rng", "Generator", "SeedSequence"}  # of numpy.random
DRAW_WHEN_BUILT = {"Linear", "Embedding", "Bilinear", "LSTM", "GRU", "MultiheadAttention"}  # of torch.nn


MEANT = {  # file and what it sets
    ("serve.py", "torch.set_num_threads"),  # a process of its own, whose user asks for so many
    ("timing.py", "torch.set_num_threads"),  # while something is timed; what it was comes back
    ("running.py", "warnings.simplefilter"),  # a process of its own, whose log repeats nothing of requests
    ("programs.py", "warnings.simplefilter"),  # while a program is traced: the exporter warns of itself
}


def hidden_draws(source: str) -> list[str]:
    """The places where a module's source draws from a generator of the process, or sets one of its modes."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(name.name == "random" for name in node.names):
            found.append("import random")
        if isinstance(node, ast.ImportFrom) and node.module in ("random", "numpy.random"):
            found.append(f"from {node.module} import")
        if isinstance(node, ast.Attribute):
            found += _of_name(ast.unparse(node))
        if isinstance(node, ast.Call):
            found += _of_call(node)
    return found


def _of_name(name: str) -> list[str]:
    room, _, last = name.rpartition(".")
    bad = last in SETS_PROCESS or name in ("torch.manual_seed", "torch.seed", "torch.cuda.manual_seed")
    bad = bad or (room in ("np.random", "numpy.random") and last not in OWN_GENERATORS)
    bad = bad or (room in ("F", "nn", "nn.functional", "torch") and last in DROPOUTS)
    return [name] if bad else []


def _of_call(node: ast.Call) -> list[str]:
    room, _, last = ast.unparse(node.func).rpartition(".")
    takes_generator = any(word.arg == "generator" for word in node.keywords)
    draws = last in IN_PLACE_DRAWS or (room == "torch" and last in TORCH_DRAWS)
    draws = (draws and not takes_generator) or (room in ("nn", "torch.nn") and last in DRAW_WHEN_BUILT)
    draws = draws or (last == "default_rng" and not node.args)  # of the system's entropy
    return [ast.unparse(node)] if draws else []


def test_no_module_draws_from_a_generator_of_the_process():
    sources = sorted(PACKAGE.rglob("*.py"))
    for path in sources:
        found = hidden_draws(path.read_text())
        found = [name for name in found if (path.name, name) not in MEANT]
        assert not found, path
    seen = sum(path.read_text().count("generator=generator") for path in sources)
    assert_not_vacuous({"modules": len(sources), "draws": seen}, above=5)


@pytest.mark.parametrize(
    "source",
    [
        "torch.rand(3)", "torch.empty(3).random_(0, 5)", "nn.init.normal_(x, std=0.1)", "np.random.rand(3)",
        "np.random.default_rng()", "torch.manual_seed(0)", "import random", "F.dropout(x, 0.1)", "nn.Linear(2, 3)",
        "torch.set_default_dtype(torch.float32)", "from numpy.random import rand", "torch.cuda.set_rng_state_all(x)",
    ],
)  # fmt: skip
def test_a_draw_from_a_generator_of_the_process_is_seen(source):
    assert hidden_draws(source)


@pytest.mark.parametrize(
    "source",
    [
        "torch.rand(3, generator=own)", "nn.init.normal_(x, generator=own)", "np.random.default_rng(3).random()",
        "torch.Generator().manual_seed(3)", "def f(rng: np.random.Generator): ...", "nn.LayerNorm(3)",
    ],
)  # fmt: skip
def test_a_draw_from_a_generator_of_its_own_is_not(source):
    assert not hidden_draws(source)
