"""What is shown as attention is what the trunk attends with: weights times values give its result."""

from functools import partial

import numpy as np
import pytest
import torch
from tiny import EVERY_LAYOUT, SCORERS, assert_caught, batch_of, model_of

from plait.engine.attention import OWN, Attention, attention
from plait.engine.state import encode
from plait.layouts import resolve
from plait.layouts.audit import reader
from plait.layouts.notation import Layout
from plait.layouts.packing import in_one_row
from plait.models.generative import ModelSettings
from plait.models.inputs import query_inputs
from plait.nn import watched
from plait.nn.config import TrunkConfig
from plait.nn.watched import Watching

WAYS = (
    ("gpt", "learned"), ("gpt", "alibi"), ("gpt", "rope"), ("gpt", "rab"),
    ("hstu", "learned"), ("hstu", "alibi"), ("hstu", "rab"),
)  # fmt: skip
TRUNKS = [
    pytest.param(TrunkConfig(dim=12, num_heads=2, kind=kind, positions=positions), id=f"{kind} {positions}")
    for kind, positions in WAYS
]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
GPT = TRUNKS[0].values[0]


def check_weights_are_used(layout: Layout, trunk: TrunkConfig = GPT) -> None:
    """At every place where the trunk attends, of the token that answers."""
    model = model_of(layout, settings=ModelSettings(trunk=trunk))
    field = "i" if reader(layout, "a") is None else "a"
    inputs = query_inputs(model.plan, batch_of([7]), (field,), in_one_row)
    slot, found = inputs.questions[0].cell_M[:1], []
    ways = {name: getattr(Watching, name) for name in ("softmax", "silu")}

    def compared(name, self, qkv, bias, **rest):
        attended_RNLH = ways[name](self, qkv, bias, **rest)
        found.append((self.weights[-1], qkv[2], attended_RNLH[:, :, int(slot)]))
        return attended_RNLH

    with pytest.MonkeyPatch.context() as patch:
        for name in ways:
            patch.setattr(
                Watching, name, lambda self, *qkv, name=name, **rest: compared(name, self, *qkv, **rest)
            )
        model.watched(inputs, slot[None])
    assert len(found) == model.trunk.num_attentions == len(model.trunk.places)
    for weight_RNL, v_RNLH, attended_RNH in found:
        torch.testing.assert_close((weight_RNL[:, :, None] @ v_RNLH).squeeze(2), attended_RNH, **CLOSE)
    assert max(float(attended_RNH.abs().max()) for *_, attended_RNH in found) > 0.1, (
        "something is attended to"
    )


@torch.no_grad()
@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_weights_are_those_of_every_layout(layout):
    check_weights_are_used(layout)


@torch.no_grad()
@pytest.mark.parametrize("trunk", TRUNKS[1:])
@pytest.mark.parametrize("name", ["lac", "attn_mvp", "interleaved"])
def test_weights_are_those_of_every_trunk(name, trunk):
    check_weights_are_used(resolve(name), trunk)


@torch.no_grad()
def test_weights_of_another_scale_are_noticed(monkeypatch):
    right = watched.softmax_weights
    monkeypatch.setattr(watched, "softmax_weights", lambda q, *rest, **more: right(1.2 * q, *rest, **more))
    assert_caught(partial(check_weights_are_used, resolve("lac")))


def shown(layout: Layout, trunk: TrunkConfig = GPT, item: int | None = 3) -> Attention:
    model = model_of(layout, settings=ModelSettings(trunk=trunk))
    state = encode(batch_of([15]), model.plan.window, model.plan.lead)
    return attention(model, state, item, at_s=int(state.events.time_s_E[-1]) + 60)


@pytest.mark.parametrize("layout", SCORERS)
def test_shares_of_a_softmax_are_whole(layout):
    found = shown(layout)
    assert all(found.is_softmax) and found.weight_PN.min() >= 0
    np.testing.assert_allclose(found.weight_PN.sum(1), found.num_heads, rtol=1e-5)
    assert len(set(np.round(found.weight_PN[0], 4))) > 2, "weights differ"


def test_events_are_counted_from_the_users_first_and_tokens_named():
    found = shown(resolve("interleaved"))
    assert found.event_N.tolist() == [*np.repeat(np.arange(15 - 11, 15), 2), OWN]
    assert found.shown == ("i[t]", "a[t]") * 11 + ("i[t]",)
    assert found.asked == len(found.shown) - 1


def test_hstu_has_no_softmax_and_says_so():
    found = shown(resolve("lac"), TRUNKS[4].values[0])
    assert found.is_softmax == (False, False)
    assert found.weight_PN.min() < 0, "weights as they are"


def test_the_next_item_is_asked_about_without_a_candidate():
    assert OWN not in shown(resolve("item"), item=None).event_N.tolist()
    assert shown(resolve("pc"), item=None).asked == 10


def test_who_cannot_be_asked_is_told_so():
    with pytest.raises(ValueError, match="cannot score"):
        shown(resolve("item"))
    with pytest.raises(ValueError, match="of one user"):
        model = model_of(resolve("lac"))
        attention(model, encode(batch_of([5, 5]), model.plan.window, model.plan.lead), 3)
