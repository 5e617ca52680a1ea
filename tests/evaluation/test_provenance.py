"""What a result says of its code, its machine, its memory and its protocol."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from itertools import product
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import polars as pl
import pytest
import torch
from small_runs import MODEL, OPTIM, PROTOCOL
from tiny import ACTIONS, assert_caught, assert_not_vacuous, prepared, random_log

from plait.data import Temporal, prepare
from plait.evaluation import protocol_line as line_module
from plait.evaluation import provenance
from plait.evaluation.protocol_line import protocol_line
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import CATALOGUE, resolve
from plait.layouts.event_roles import SameRequest
from plait.models.generative import ModelSettings
from plait.models.late import LateSettings
from plait.models.questions import Exposure, History, Supervise
from plait.nn.positions import TimeAnchor
from plait.nn.towers import TowerConfig
from plait.nn.two_tower import TwoTowerSettings
from plait.training import memory
from plait.training.memory import forget_peak_memory, peak_memory_mb


def line(dataset, model=MODEL, optim=OPTIM, protocol=PROTOCOL, seeds=(0,), layout=None):
    return protocol_line(dataset, model, optim, protocol, seeds, layout)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"protocol": replace(PROTOCOL, negatives=99)}, "ranked against the 99 sampled unseen items"),
        ({"protocol": replace(PROTOCOL, filter_seen=False)}, "seen items kept"),
        ({"protocol": replace(PROTOCOL, filter_seen=False, negatives=9)}, "the 9 sampled items, seen items"),
        ({"protocol": replace(PROTOCOL, max_flops=1e15)}, "cap 3 epochs, 1e+15 FLOPs"),
        ({"protocol": replace(PROTOCOL, select="mrr=2")}, "selected by validation mrr=2"),
        ({"protocol": replace(PROTOCOL, window="random")}, "T = 6 events, random window"),
        ({"protocol": replace(PROTOCOL, window_step=2)}, "last window that begins anew every S = 2 events;"),
        ({"optim": replace(OPTIM, precision="bf16")}, "bf16"),
        ({"optim": replace(OPTIM, warmup_steps=7)}, "7 steps of warm-up"),
        ({"model": replace(MODEL, trunk=replace(MODEL.trunk, num_layers=3))}, "3 layers"),
        (
            {"protocol": replace(PROTOCOL, supervise="candidates")},
            "supervised on the last request of a window",
        ),
        ({"protocol": replace(PROTOCOL, supervise="candidates")}, "no request column: events of one time"),
        ({"model": replace(MODEL, trunk=replace(MODEL.trunk, positions="genrank"))}, "no request column"),
        (
            {"model": replace(MODEL, trunk=replace(MODEL.trunk, positions="rab"))},
            "target time known where actions",
        ),
        ({"model": replace(MODEL, exposure=Exposure(same_request="blind"))}, "no request column"),
        ({"model": replace(MODEL, exposure=Exposure(history="full"))}, "no request column"),
        ({"model": replace(MODEL, exposure=Exposure(time_anchor="request"))}, "no request column"),
        ({"seeds": (4, 5)}, "seeds 4, 5"),
    ],
)
def test_what_decides_a_result_stands_in_its_line(dataset, changed, words):
    assert words in line(dataset, **changed) and words not in line(dataset)


DEFAULTS = {"model": ModelSettings(), "optim": Optim(precision="fp32"), "protocol": Protocol()}
APART = {
    "protocol.seed",  # the seeds are the line's own argument: one line is of several
    "protocol.recorded",  # changes no result: what is kept beside the model
    "model.ranker.search",  # hard search and its category come together
    "model.ranker.category",
    # What is read of interests comes with their files, whose hash a run keeps.
    *(f"model.ranker.interests.{name}" for name in ("user", "match", "item", "width", "num_conditions")),
    *(f"model.two_tower.interests.{name}" for name in ("user", "item", "width", "num_conditions")),
}
FIRST = {  # what else must be chosen for a setting to be changed, or for the change to be one
    "model.trunk.rab": {"model.trunk.positions": "rab"},
    "model.retrieval.kind": {"model.retrieval.kind": "full"},  # as auto is for a small catalogue
    "protocol.sample": {"protocol.supervise": "candidates"},
    "protocol.requests_per_part": {"protocol.sample": "part"},
    "model.ranker.recent_events": {"model.ranker.kind": "din"},
    "model.ranker.top_k": {"model.ranker.kind": "sim"},
    "model.two_tower.recent_events": {"model.two_tower.kind": "ebr"},
    "model.two_tower.hidden": {"model.two_tower.kind": "ebr"},
}
EXAMPLES = {
    "model.ranker.hidden": (8,),
    "model.two_tower.hidden": (8,),
    "model.late.windows": (3,),
    "model.action_weights": {"liked": 2.0},
    "optim.betas": (0.5, 0.75),
    "protocol.select": "mrr",
    "protocol.lists": (10, 300),
}


def leaves(settings: object, name: str) -> Iterator[tuple[str, object, Any]]:
    """Every setting of a settings dataclass, and of those inside it: name, value, type."""
    for field, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, field)
        if is_dataclass(value):
            yield from leaves(value, f"{name}.{field}")
        elif not field.isupper():
            yield f"{name}.{field}", value, hint


def others(name: str, value: object, hint: Any) -> list[object]:
    """Values that the setting may be changed to; "auto" stands for one of the others."""
    if name in EXAMPLES:
        return [EXAMPLES[name]]
    if get_origin(hint) is Literal:
        return [other for other in get_args(hint) if other not in (value, "auto")]
    kind = get_args(hint)[0] if isinstance(hint, UnionType) else hint
    examples = {bool: not value, int: 2 * (value or 1), float: (value or 0.0) + 0.25, str: "mrr"}
    return [examples[kind]]


def with_setting(settings: Any, name: str, value: object) -> Any:
    """The settings with one of them changed: "model.trunk.dim" of what "model" names."""
    first, _, rest = name.partition(".")
    if isinstance(settings, dict):
        return settings | {first: with_setting(settings[first], rest, value)}
    if rest:
        value = with_setting(getattr(settings, first), rest, value)
    return replace(settings, **{first: value})


def check_every_setting_is_told(dataset) -> None:
    counts = {"model": 0, "optim": 0, "protocol": 0}
    untold = []
    every = [leaf for name, settings in DEFAULTS.items() for leaf in leaves(settings, name)]
    for name, value, hint in every:
        base = DEFAULTS
        for first, chosen in FIRST.get(name, {}).items():
            base, value = with_setting(base, first, chosen), chosen if first == name else value
        for other in [] if name in APART else others(name, value, hint):
            told = line(dataset, **with_setting(base, name, other)) != line(dataset, **base)
            untold += [] if told else [f"{name} = {other}"]
            counts[name.partition(".")[0]] += 1
    assert_not_vacuous(counts, above=7)
    said = {f"{section}.{name}" for section, names in line_module.IN_WORDS.items() for name in names.split()}
    assert not untold and not said - {name for name, _, _ in every}, (untold, said)


def test_every_setting_that_is_changed_changes_the_line(dataset):
    check_every_setting_is_told(dataset)


def test_a_setting_that_is_left_out_of_the_line_is_noticed(dataset, monkeypatch):
    words = line_module.IN_WORDS
    for section, name in (("optim", "betas"), ("model.trunk.hstu", "silu"), ("protocol", "gone")):
        one_more = {**words, section: f"{words.get(section, '')} {name}"}
        monkeypatch.setattr(line_module, "IN_WORDS", one_more)
        assert_caught(check_every_setting_is_told, dataset)


def test_settings_without_words_stand_in_the_line_by_name_and_defaults_do_not(dataset):
    model = replace(MODEL, trunk=replace(MODEL.trunk, ride_weight=0.5, mlp_multiple=3))
    optim = replace(OPTIM, weight_decay=0.1)
    found = line(dataset, model=model, optim=optim, protocol=replace(PROTOCOL, validate_every=2))
    told = "model.trunk.mlp_multiple = 3; model.trunk.ride_weight = 0.5; optim.weight_decay = 0.1; protocol."
    assert f"{told}validate_every = 2; seed 0" in found
    assert " = " not in line(dataset, **DEFAULTS).replace("d = 64", "").replace("T = 100", "").replace(
        "(last event = test, one before = validation)", ""
    ).replace("same_request = causal", "")


def check_line_of_two_towers(dataset) -> None:
    """It tells of their layers, and not of heads of actions, which they lack."""
    heads = replace(
        MODEL,
        tower=TowerConfig(kind="linear", gate="ppnet"),
        late=LateSettings(windows=(3,)),
        action_weights={"liked": 2.0},
        retrieval_weight=0.5,
    )
    said = "linear tower", "ppnet gate", "late features", "action weights", "retrieval weight"
    assert all(words in line(dataset, model=heads) for words in said)
    found = line(dataset, model=replace(heads, two_tower=TwoTowerSettings(kind="ebr", hidden=(9, 7))))
    assert f"two towers ebr d = {MODEL.trunk.dim}, layers of 9, 7, {MODEL.trunk.dim} in each" in found
    assert not [words for words in said if words in found]


def test_the_line_of_two_towers_tells_what_they_have(dataset, monkeypatch):
    check_line_of_two_towers(dataset)
    monkeypatch.setattr(line_module, "_words_of_heads", lambda _, model: line_module._words_of_actions(model))
    assert_caught(check_line_of_two_towers, dataset)


@pytest.mark.parametrize(
    ("layout", "exposure", "says"),
    [
        ("genrank", Exposure(), True),
        ("lac", Exposure(), False),
        ("lac", Exposure(history="full"), True),
        ("item", Exposure(time_anchor="request"), True),
        ("item", Exposure(time_anchor="next"), False),
    ],
)
def test_layouts_and_exposures_that_ask_candidates_tell_of_a_log_without_requests(
    dataset, layout, exposure, says
):
    model = replace(MODEL, trunk=replace(MODEL.trunk, positions="rab"), exposure=exposure)
    assert ("no request column" in line(dataset, model=model, layout=resolve(layout))) is says


def check_line_of_no_layout(dataset) -> None:
    """It says what holds of every layout."""
    choices = product(get_args(SameRequest), get_args(History), get_args(TimeAnchor))
    exposures = [Exposure(same_request=s, history=h, time_anchor=t) for s, h, t in choices]
    met = {"said": 0, "silent": 0}
    for exposure, supervise in product(exposures, get_args(Supervise)):
        protocol = replace(PROTOCOL, supervise=supervise)
        plans = [
            protocol.plan(entry.layout, replace(MODEL, exposure=exposure)) for entry in CATALOGUE.values()
        ]
        is_said = "no request column" in line(
            dataset, model=replace(MODEL, exposure=exposure), protocol=protocol
        )
        assert is_said == all(plan.reads_requests for plan in plans), (exposure, supervise)
        met["said" if is_said else "silent"] += 1
    assert_not_vacuous(met, above=1)


def test_the_line_of_no_layout_says_what_every_layout_reads(dataset, monkeypatch):
    check_line_of_no_layout(dataset)
    blind_alone = property(lambda exposure: exposure.same_request == "blind")
    monkeypatch.setattr(Exposure, "reads_requests", blind_alone)
    assert_caught(check_line_of_no_layout, dataset)


def test_a_request_column_needs_no_note(tmp_path):
    log = random_log().with_columns(request=pl.int_range(pl.len()))
    columns = {"user": "user", "item": "item", "time": "time", "request": "request"}
    other = prepare(log, **columns, actions=list(ACTIONS), out=tmp_path / "requests", min_item_events=1)
    asked = {"protocol": replace(PROTOCOL, supervise="candidates"), "layout": resolve("genrank")}
    assert "no request column" not in line(other, **asked)


def test_a_temporal_split_and_a_note_stand_in_the_line(dataset, tmp_path):
    assert "split leave-one-out" in line(dataset) and line(dataset).endswith("; seed 0")
    split = Temporal(cut_validation_s=1_004_000, cut_test_s=1_006_000)
    other = prepared(random_log(), tmp_path / "temporal", split=split)
    assert "split temporal (validation from 1004000, test from 1006000)" in line(other)
    assert protocol_line(other, MODEL, Optim(precision="bf16"), Protocol(), [1]).count("\n") == 0


def test_provenance_names_the_code_and_the_machine(monkeypatch):
    found = provenance.provenance("cpu")
    assert str(found).startswith(f"plait {found.version}, ")
    assert f"{torch.get_num_threads()} threads" in found.machine

    def no_git(*arguments, **named):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    provenance._commit.cache_clear()
    assert provenance.provenance("cpu").commit == ""
    provenance._commit.cache_clear()


PEAKS = """
import sys
import torch
from plait.nn.runtime import tune_process
from plait.training.memory import forget_peak_memory, peak_memory_mb

tune_process()  # which keeps freed memory in the process

def peak_of_work(megabytes):
    torch.ones(megabytes * 250_000).sum()
    return peak_memory_mb()

if not forget_peak_memory():
    sys.exit(77)
found = [peak_of_work(20), peak_of_work(400), peak_of_work(20)]
forget_peak_memory()
print(*found, peak_of_work(20))
"""


def test_a_small_run_after_a_large_one_does_not_repeat_its_peak():
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this kernel does not let a process reset its peak")
    small, large, not_reset, reset = map(float, done.stdout.split())
    assert large > small + 350
    assert not_reset == large, "the process's own highest: what would be reported without"
    assert reset < small + 50


def test_where_nothing_tells_the_memory_it_is_not_known(tmp_path, monkeypatch):
    assert peak_memory_mb() > 50
    monkeypatch.setattr(memory, "OF_PROCESS", tmp_path / "none")
    assert not forget_peak_memory() and peak_memory_mb() is None


NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def several(name: str, value: object, hint: Any) -> list[object]:
    """As `others`, and of a number more than one."""
    kind = get_args(hint)[0] if isinstance(hint, UnionType) else hint
    if name in EXAMPLES or kind not in (int, float):
        return others(name, value, hint)
    step = 0.25 if kind is float else value or 1
    return [(value or 0) + step, (value or 0) + 3 * step]


def check_lines_hold_values(dataset) -> None:
    """No two values of a setting give one line, and a number that is not the default's stands in its line."""
    counts = {"settings": 0, "numbers": 0}
    for section, settings in DEFAULTS.items():
        for name, value, hint in leaves(settings, section):
            base = DEFAULTS
            for first, chosen in FIRST.get(name, {}).items():
                base, value = with_setting(base, first, chosen), chosen if first == name else value
            values = [] if name in APART else several(name, value, hint)
            lines = [line(dataset, **base), *(line(dataset, **with_setting(base, name, v)) for v in values)]
            assert len(set(lines)) == len(lines), f"{name}: {values} give the same line"
            before = Counter(map(float, NUMBER.findall(lines[0])))
            for v, told in zip(values, lines[1:], strict=True):
                if type(v) in (int, float):
                    assert Counter(map(float, NUMBER.findall(told)))[v] > before[v], f"{name} = {v}: {told}"
                    counts["numbers"] += 1
            counts["settings"] += len(values) > 0
    assert_not_vacuous(counts, above=40)


def test_the_line_holds_the_value_and_not_just_another_text(dataset, monkeypatch):
    check_lines_hold_values(dataset)
    right = line_module._words_of_heads

    def vague(dataset, model):
        words = ["another retrieval weight"] if model.retrieval_weight != 1 else []
        return right(dataset, replace(model, retrieval_weight=1.0)) + words

    monkeypatch.setattr(line_module, "_words_of_heads", vague)
    assert_caught(check_lines_hold_values, dataset)
