"""Settings that nothing reads: refused where no layout would read them, said where only this one does not."""

from dataclasses import replace

import pytest
from small_runs import MODEL, OPTIM, PROTOCOL, silent
from tiny import ACTIONS, MAX_EVENTS, NUM_ITEMS, trunk_of

from plait.evaluation.protocol_line import changed
from plait.evaluation.settings import Protocol
from plait.layouts import CATALOGUE, Layout, resolve
from plait.models.generative import ModelConfig, ModelSettings
from plait.models.late import LateSettings
from plait.models.questions import Exposure
from plait.nn.config import HstuSwitches, TrunkConfig
from plait.nn.encoders import ItemEncoding
from plait.nn.losses import RetrievalLoss
from plait.nn.towers import TowerConfig
from plait.nn.two_tower import TwoTowerSettings
from plait.schema import Category, Feature, Vector
from plait.training import unread
from plait.training.loop import train_model
from plait.training.unread import check_read, notes_on_unread

CODED, FROZEN = Feature("genre", Category()), Feature("content", Vector())
MANY = 30_000  # items: a full softmax is then no longer what auto is


def config(layout: str = "lac", num_items: int = NUM_ITEMS, features=(), actions=ACTIONS, **settings):
    return ModelConfig(
        layout=str(resolve(layout)),
        settings=ModelSettings(**settings),
        num_items=num_items,
        actions=actions,
        max_events=MAX_EVENTS,
        item_features=features,
    )


def trunk(**settings: object) -> dict[str, TrunkConfig]:
    return {"trunk": replace(trunk_of(), **settings)}


def retrieval(**settings: object) -> dict[str, RetrievalLoss]:
    return {"retrieval": RetrievalLoss(**settings)}


def tower(**settings: object) -> dict[str, TowerConfig]:
    return {"tower": TowerConfig(**settings)}


def items(**settings: object) -> dict[str, ItemEncoding]:
    return {"items": ItemEncoding(**settings)}


BIASED = HstuSwitches(bias=True)
CANDIDATES = {"supervise": "candidates"}

# What is unread, what is said of it, and a neighbour that reads it.
REFUSED = [
    (
        trunk(hstu=BIASED),
        "model.trunk.hstu.bias = True",
        "kind = 'hstu'.*is gpt",
        trunk(kind="hstu", hstu=BIASED),
    ),
    (
        trunk(kind="hstu", mlp_multiple=3),
        "model.trunk.mlp_multiple = 3",
        "kind = 'gpt'",
        trunk(mlp_multiple=3),
    ),
    (
        tower(kind="mlp", num_shared_experts=3),
        "model.tower.num_shared_experts = 3",
        "'mmoe' or ple",
        tower(kind="mmoe", num_shared_experts=3),
    ),
    (
        tower(kind="linear", expert_multiple=2),
        "model.tower.expert_multiple = 2",
        "here it is linear",
        tower(kind="ple", expert_multiple=2),
    ),
    (
        tower(kind="mmoe", num_levels=3),
        "model.tower.num_levels = 3",
        "kind = 'ple'",
        tower(kind="ple", num_levels=3),
    ),
    (
        tower(kind="mmoe", num_task_experts=2),
        "model.tower.num_task_experts = 2",
        "kind = 'ple'",
        tower(kind="ple", num_task_experts=2),
    ),
    (
        retrieval(num_negatives=5),
        "model.retrieval.num_negatives = 5",
        "for 17 items auto is full",
        retrieval(num_negatives=5) | {"num_items": MANY},
    ),
    (
        retrieval(kind="info_nce", sampler="uniform"),
        "model.retrieval.sampler = 'uniform'",
        "here it is info_nce",
        retrieval(kind="sampled", sampler="uniform"),
    ),
    (
        retrieval(kind="full", log_q="both"),
        "model.retrieval.log_q = 'both'",
        "'sampled' or info_nce",
        retrieval(kind="info_nce", log_q="both"),
    ),
    (
        items(id_dropout=0.3),
        "model.items.id_dropout = 0.3",
        "no item features",
        items(id_dropout=0.3) | {"features": (CODED,)},
    ),
    (
        items(use_id=False, id_dropout=0.3) | {"features": (CODED,)},
        "model.items.id_dropout = 0.3",
        "model.items.use_id = True",
        items(use_id=False) | {"features": (CODED,)},
    ),
    (
        items(feature_dim=3) | {"features": (FROZEN,)},
        "model.items.feature_dim = 3",
        "are vectors",
        items(feature_dim=3) | {"features": (FROZEN, CODED)},
    ),
    (
        tower(kind="linear") | {"layout": "item", "actions": ()},
        "model.tower.kind = 'linear'",
        "no actions",
        tower(kind="linear") | {"layout": "item"},
    ),
    (
        {"two_tower": TwoTowerSettings(recent_events=3)},
        "model.two_tower.recent_events = 3",
        "kind = 'ebr'.*is none",
        {"two_tower": TwoTowerSettings(kind="ebr", recent_events=3), "layout": "item"},
    ),
    *(
        (
            {
                "trunk": TrunkConfig(**{name: value}),
                "two_tower": TwoTowerSettings(kind="ebr"),
                "layout": "item",
            },
            f"model.trunk.{name} = {value}",
            "kind = 'none'.*is ebr",
            {"trunk": TrunkConfig(**{name: value}), "layout": "item"},
        )
        for name, value in {"num_layers": 3, "num_heads": 4, "dropout": 0.3}.items()
    ),
]


@pytest.mark.parametrize(("nobody", "setting", "reason", "somebody"), REFUSED)
def test_a_setting_that_nothing_reads_is_refused_and_its_neighbour_is_not(nobody, setting, reason, somebody):
    with pytest.raises(ValueError, match=f"^{setting}: is read by .*{reason}.*; leave it out$"):
        check_read(config(**nobody), Protocol())
    check_read(config(**somebody), Protocol())


def test_a_window_that_samples_of_one_event_do_not_read_is_refused():
    chosen = Protocol(window="random", sample="event", **CANDIDATES)
    with pytest.raises(ValueError, match=r"^protocol.window = 'random': is read by protocol.sample = 'user'"):
        check_read(config(), chosen)
    check_read(config(), replace(chosen, sample="user"))
    check_read(config(), replace(chosen, window="last"))


def test_the_size_of_parts_is_refused_where_samples_are_none():
    chosen = Protocol(requests_per_part=3)
    with pytest.raises(
        ValueError, match=r"^protocol.requests_per_part = 3: is read by protocol.sample = 'part'"
    ):
        check_read(config(), chosen)
    check_read(config(), replace(chosen, sample="part"))


@pytest.mark.parametrize("chosen", [{"deploy": "actions"}, {"judge": "deployed"}])
def test_what_is_for_two_checkpoints_is_refused_where_one_is_kept(chosen):
    with pytest.raises(
        ValueError, match=r"is read by protocol.select = 'each' alone, and here it is mrr; leave it"
    ):
        check_read(config(), Protocol(select="mrr", **chosen))
    check_read(config(), Protocol(**chosen))


# What is unread, what is said of it, the layout that does not read it, and one that does.
SAID = [
    (trunk(ride_weight=0.5), {}, "model.trunk.ride_weight = 0.5", "lac", "attn_mvp"),
    (trunk(ride_weight=0.5), {}, "model.trunk.ride_weight = 0.5", "attn_dhn", "attn_mvp_early"),
    (trunk(pool_fuses_item=True), {}, "model.trunk.pool_fuses_item = True", "attn_mvp_early", "attn_lfa"),
    (retrieval(temperature=0.5), {}, "model.retrieval.temperature = 0.5", "action_out", "item"),
    (retrieval(kind="full"), {}, "model.retrieval.kind = 'full'", "next_action", "lac"),
    (retrieval(l2_norm=True), {}, "model.retrieval.l2_norm = True", "action_out", "pc"),
    ({"retrieval_weight": 2.0}, {}, "model.retrieval_weight = 2.0", "attn_lfa", "lac"),
    ({}, {"negatives": 7}, "protocol.negatives = 7", "genrank", "interleaved"),
    ({}, {"filter_seen": False}, "protocol.filter_seen = False", "next_action", "pc"),
    (tower(kind="ple"), {}, "model.tower.kind = 'ple'", "item", "action_out"),
    ({"action_weights": {"liked": 2.0}}, {}, "model.action_weights = {'liked': 2.0}", "lagged_in", "lac"),
    ({"late": LateSettings(windows=(3,))}, {}, "model.late.windows = (3,)", "action_in", "both_out"),
    ({}, {"candidate_requests": 2}, "protocol.candidate_requests = 2", "action_out", "genrank"),
    ({}, {"sample": "part"}, "protocol.sample = 'part'", "action_out", "genrank"),
    ({}, {"deploy": "actions"}, "protocol.deploy = 'actions'", "item", "lac"),
    ({}, {"judge": "deployed"}, "protocol.judge = 'deployed'", "action_out", "interleaved"),
]


@pytest.mark.parametrize(("model", "protocol", "setting", "other", "reader"), SAID)
def test_a_setting_that_this_layout_does_not_read_is_said(model, protocol, setting, other, reader):
    """And no more: beside the layout, one that reads it may be compared under the same settings."""
    chosen = Protocol(**protocol)
    check_read(config(other, **model), chosen)
    (note,) = notes_on_unread(config(other, **model), chosen)
    assert note.startswith(f"not read: {setting}: is read by ")
    assert note.endswith(f"layout '{resolve(other)}' has none")
    assert not notes_on_unread(config(reader, **model), chosen)


def test_candidates_are_asked_for_by_the_protocol_or_the_exposure_too():
    """By an exposure that allows those of one request alone."""
    chosen = Protocol(candidate_requests=2)
    assert notes_on_unread(config(), chosen)
    assert not notes_on_unread(config(), replace(chosen, **CANDIDATES))
    with pytest.raises(ValueError, match=r"come after all of it \(protocol.candidate_requests = 1\)"):
        notes_on_unread(config(exposure=Exposure(history="full")), chosen)


@pytest.mark.parametrize("name", CATALOGUE)
def test_of_the_defaults_nothing_is_unread(name):
    check_read(config(name), Protocol())
    assert not notes_on_unread(config(name), Protocol())


def test_every_reader_is_of_settings_that_there_are_and_is_tested():
    """A name that is misspelt would let its setting pass."""
    chosen = config(), Protocol()
    readers = [*unread._by_choice(*chosen), *unread._by_data(chosen[0]), *unread._by_layout(*chosen)]
    sections = {"model": chosen[0].settings, "protocol": chosen[1]}
    for reader in readers:
        for setting in reader.settings:
            section, *path = setting.split(".")
            found = sections[section]
            for name in path:
                found = getattr(found, name)  # raises
    # What is read by a ranker, or by what stands in its place, is tried in test_ranker_training.py. Of what two towers
    # leave unread, three settings of the trunk stand for all.
    elsewhere = "model.ranker.kind", "model.two_tower.kind = 'none'"
    named = {
        name
        for reader in readers
        if not any(other in reader.who for other in elsewhere)
        for name in reader.settings
    }
    tested = [*(case[1] for case in REFUSED), *(case[2] for case in SAID)]
    tested += ["protocol.window = random", "protocol.requests_per_part = 3"]
    assert len(named) > 15
    assert not {s for s in named if not any(test.startswith(s) for test in tested)}


def test_what_was_changed_is_found_wherever_it_stands():
    found = changed(
        ModelSettings(**trunk(hstu=BIASED), action_weights={"a": 2.0}, **retrieval(l2_norm=True)), "m"
    )
    assert dict(found) == {
        "m.trunk.dim": 12,
        "m.trunk.dropout": 0.0,
        "m.trunk.hstu.bias": True,
        "m.retrieval.l2_norm": True,
        "m.action_weights": {"a": 2.0},
    }
    assert not list(changed(ModelSettings(), "m"))


def test_training_refuses_before_it_writes_and_says_before_it_trains(dataset, tmp_path):
    shape = config("item", num_items=dataset.num_items, **retrieval(num_negatives=5))
    with pytest.raises(ValueError, match=r"model.retrieval.num_negatives = 5: .* auto is full; leave it out"):
        train_model(dataset, shape, OPTIM, PROTOCOL, tmp_path / "run", silent)
    assert not (tmp_path / "run").exists()
    lines: list[str] = []
    layout = Layout.parse(shape.layout)
    shape = replace(shape, settings=replace(MODEL, **tower(kind="linear")), max_events=PROTOCOL.max_events)
    train_model(dataset, shape, OPTIM, replace(PROTOCOL, max_epochs=1), tmp_path / "run", lines.append)
    lines = [line for line in lines if "were met before" not in line]  # of this log's answers some were
    assert lines[0] == (
        f"not read: model.tower.kind = 'linear': is read by predicted actions alone, and layout '{layout}' has none"
    )
    assert len(lines) == 2 and lines[1].startswith("epoch   1")
