"""The drawing: what is drawn is what is trained."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from random_layouts import LAYOUTS, assert_caught
from tiny import (
    EVERY_LAYOUT,
    batch_of,
    model_of,
    plan_of,
)

from plait.layouts import CATALOGUE, Layout, arrange, draw, resolve
from plait.layouts.arrange import candidate_tokens
from plait.layouts.draw import (
    CATALOGUE_HEADINGS,
    CatalogueRow,
    catalogue_rows,
    explain,
    mask_of,
    token_labels,
)
from plait.models.inputs import query_inputs
from plait.nn import packed
from plait.nn.attention import attend_reference

GENRANK = Layout.parse("(i[t], a[t]) -> () / (i[t], a[?]) -> a[t]")
TWO_TOKENS = Layout.parse("c[t] -> i[t]; i[t] -> a[t]; a[t] -> ()")


def picture(mask: np.ndarray) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in mask]


@pytest.mark.parametrize(
    ("layout", "tokens"),
    [
        (resolve("lac"), ["i0 a(start)", "i1 a0", "i2 a1", "ix0 a2", "ix1 a2"]),
        (resolve("interleaved"), ["i0", "a0", "i1", "a1", "i2", "a2", "ix0", "ix1"]),
        (resolve("pc"), ["i0 a0", "i1 a1", "i2 a2"]),
        (GENRANK, ["i0 a0", "i1 a1", "i2 a2", "ix0 a?", "ix1 a?"]),
        (TWO_TOKENS, ["c0", "i0", "a0", "c1", "i1", "a1", "c2", "i2", "a2", "cx0", "ix0", "cx1", "ix1"]),
    ],
)
def test_labels_of_the_tokens(layout, tokens):
    assert token_labels(layout) == tokens


def test_the_mask_of_one_token_candidates():
    assert picture(mask_of(resolve("lac"))) == ["x....", "xx...", "xxx..", "xxxx.", "xxx.x"]


def check_two_token_candidates() -> None:
    assert picture(mask_of(TWO_TOKENS, num_events=1)) == [
        "x......",
        "xx.....",
        "xxx....",
        "xxxx...",
        "xxxxx..",
        "xxx..x.",
        "xxx..xx",
    ]


def test_the_mask_of_two_token_candidates():
    check_two_token_candidates()


def test_candidates_that_see_each_other_are_noticed(monkeypatch):
    monkeypatch.setattr(draw, "HISTORY", 0)
    assert_caught(check_two_token_candidates)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_mask_of_every_layout(layout):
    events, candidates = 4, 3
    history, own = events * layout.tokens_per_event, len(candidate_tokens(layout))
    mask = mask_of(layout, events, candidates)
    assert mask.shape == (history + candidates * own,) * 2
    assert len(token_labels(layout, events, candidates)) == len(mask)
    strict = bool(layout.rides & {"values", "helix"})
    assert (mask.diagonal() != strict).all(), "itself, but where its value holds its own action"
    assert not np.triu(mask, 1).any(), "nothing that comes later"
    assert mask[:, :history][history:].all(), "a candidate sees all of the history"
    blocks = [mask[history + c * own :, history : history + c * own] for c in range(candidates)]
    assert not any(block.any() for block in blocks), "and no other candidate"


def reaches(layout: Layout, num_events: int, num_candidates: int) -> list[np.ndarray]:
    """Of every attention of a model that is asked about candidates: which slot's result has a gradient in which
    slot's value."""
    batch = batch_of([num_events + num_candidates])
    inputs = query_inputs(plan_of(layout), batch, ("i", "a"), num_candidates_U=np.array([num_candidates]))
    values, results = [], []

    def watched(q_RNLH, k_RNLH, v_RNLH, *arguments, **rest):
        v_RNLH = v_RNLH.detach().requires_grad_()
        values.append(v_RNLH)
        results.append(attend_reference(q_RNLH.detach(), k_RNLH.detach(), v_RNLH, *arguments, **rest))
        return results[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "attend", watched)
        model_of(layout)(replace(inputs, read=None))
    return [
        np.stack(
            [
                torch.autograd.grad(result_RNLH[:, :, slot].sum(), v_RNLH, retain_graph=True)[0][0]
                .ne(0).any(dim=(0, 2)).numpy()
                for slot in range(result_RNLH.shape[2])
            ]
        )
        for v_RNLH, result_RNLH in zip(values, results, strict=True)
    ]  # fmt: skip


def check_reach(layout: Layout) -> None:
    mask = mask_of(layout, 3, 2)
    layers = reaches(layout, 3, 2)
    if "pool" in layout.rides:
        assert (layers.pop() == (mask & ~np.eye(len(mask), dtype=bool))).all(), "the pooling"
    assert len(layers) == 2 + 2 * ("helix" in layout.rides)
    assert all((layer == mask).all() for layer in layers)


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_the_mask_is_the_reach_of_the_attention(layout):
    check_reach(layout)


@pytest.mark.parametrize("name", ["attn_mvp", "attn_dhn", "lac"])
def test_a_wrong_diagonal_is_noticed(name, monkeypatch):
    right = draw._is_strict
    monkeypatch.setattr(draw, "_is_strict", lambda layout: not right(layout))
    assert_caught(partial(check_reach, resolve(name)))


def test_masks_of_rides_as_drawn():
    strict = [
        "  i0   · · · | · ·",
        "  i1   ■ · · | · ·",
        "  i2   ■ ■ · | · ·",
        "",
        "  ix0  ■ ■ ■ | · ·",
        "  ix1  ■ ■ ■ | · ·",
    ]
    causal = [
        "  i0   ■ · · | · ·",
        "  i1   ■ ■ · | · ·",
        "  i2   ■ ■ ■ | · ·",
        "",
        "  ix0  ■ ■ ■ | ■ ·",
        "  ix1  ■ ■ ■ | · ■",
    ]
    heading = "Mask: a row's token sees the columns marked ■"
    assert explain(resolve("attn_mvp")).splitlines()[-7:] == [heading, *strict]
    assert explain(resolve("attn_dhn")).splitlines()[-7:] == [heading, *strict]
    pooled = f"{heading}; the pooling at the end, those of earlier events"
    assert explain(resolve("attn_lfa")).splitlines()[-7:] == [pooled, *causal]


def test_a_drawing_follows_what_is_trained(monkeypatch):
    """With `arrange` broken, the labels must break: they are not drawn from the notation."""
    right = arrange._event_or_start
    monkeypatch.setattr(arrange, "_event_or_start", lambda event_M, first_M: right(event_M - 1, first_M))
    assert token_labels(resolve("lac"))[:2] == ["i(start) a(start)", "i0 a(start)"]


@pytest.mark.parametrize(("events", "candidates"), [(0, 1), (1, 0)])
def test_nothing_to_draw_is_refused(events, candidates):
    with pytest.raises(ValueError, match=f"needs an event and a candidate, got {events} and {candidates}"):
        token_labels(resolve("lac"), events, candidates)


def test_rows_are_the_catalogue_in_order_under_their_headings():
    rows = catalogue_rows()
    assert [row.name for row in rows] == list(CATALOGUE)
    assert len(CATALOGUE_HEADINGS) == len(CatalogueRow.__dataclass_fields__)
    assert "T = 100" in CATALOGUE_HEADINGS[3] and "d = 256" in CATALOGUE_HEADINGS[3]
    by_name = {row.name: row for row in rows}
    assert by_name["pc"] == CatalogueRow(
        name="pc",
        notation="(i[t], a[t]) -> (i[t+1], a[t+1] | i[t+1])",
        tokens_per_event=1,
        relative_flops=1.0,
        retrieves=True,
        scores="late",
        information="full",
        conditioning="late",
        source="LAC table 2 row 10",
    )
    T, d = 100, 256
    assert by_name["interleaved"].relative_flops == pytest.approx((48 * d + 8 * T) / (24 * d + 2 * T))
    assert by_name["attn_dhn"].relative_flops > 2 > 1.1 > by_name["attn_lfa"].relative_flops > 1
    assert (by_name["item"].conditioning, by_name["next_both"].conditioning) == ("-", "violated")


def test_lac_explained():
    assert explain(resolve("lac")).splitlines() == [
        "lac: (i[t], a[t-1]) -> (i[t+1], a[t])",
        "source: LAC table 2 row 8",
        "",
        "Tokens of 3 events and candidate x0",
        "  token 0: shows i0, a(start); predicts i1, a0",
        "  token 1: shows i1, a0; predicts i2, a1",
        "  token 2: shows i2, a1; predicts i3, a2",
        "  token 3 (x0): shows ix0, a2",
        "  the next item: read at token 2",
        "  the action on x0: read at token 3 (x0)",
        "",
        "Audit",
        "  P1 information        full: items and actions both inform and supervise",
        "                          i[t+1] from items up to i[t], actions up to a[t-1]",
        "                          a[t] from items up to i[t], actions up to a[t-1]",
        "  P2 action given item  a[t] early: the trunk attends with the item in sight",
        "  P3 no leak            kept",
        "  retrieves             yes",
        "  scores a candidate    early",
        "  tokens per event      1",
        "  blind to its request  no other event of it; a[t-1] of an earlier one; i[t+1] only where it ends",
        "  counts of actions     the effect of its item, and the user's residuals before it",
        "",
        "Trunk FLOPs against item-only, one token per event and per candidate, 12 layers",
        "  training (d = 256)                  T = 100: 1.00, T = 1000: 1.00",
        "  scoring 1000 candidates (d = 256)   T = 100: 1.00, T = 1000: 1.00",
        "",
        "Mask: a row's token sees the columns marked ■",
        "  i0 a(start)  ■ · · | · ·",
        "  i1 a0        ■ ■ · | · ·",
        "  i2 a1        ■ ■ ■ | · ·",
        "",
        "  ix0 a2       ■ ■ ■ | ■ ·",
        "  ix1 a2       ■ ■ ■ | · ■",
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "pc",
            [
                "token 2: shows i2, a2; predicts i3, a3 given i3",
                "the action on x0: read at token 2 given ix0",
            ],
        ),
        ("lac_patched", ["the next item: read at token 2 given a2"]),
        ("item", ["the action on x0: not predicted", "scores a candidate    no: it predicts no action"]),
        ("next_action", ["scores a candidate    no: its action score cannot depend on the candidate (P2)"]),
        ("interleaved", ["token 4: shows i2; predicts a2", "token 5: shows a2; predicts i3"]),
        (
            "i[t] -> a[t] {values, pool}",
            [
                "actions enter by late fusion, mixed values: seen from the event after theirs on",
                "token 2: shows i2; predicts a2",
            ],
        ),
        (str(GENRANK), ["token 2: shows i2, a2; predicts nothing", "token 3 (x0): shows ix0, a?"]),
        ("c[t] -> i[t]; i[t] -> ()", ["the next item: read at token 6 (x0)"]),
        ("i[t] -> i[t+5]", ["Tokens of 5 events and candidate x0", "the next item: read at token 0"]),
    ],
)
def test_what_an_explanation_says(text, lines):
    explained = [line.strip() for line in explain(resolve(text)).splitlines()]
    assert [line for line in lines if line not in explained] == []


def test_an_allowed_leak_is_explained():
    assert "P3 no leak            a[t] is predicted, but a[t] itself is already visible" in explain(
        Layout.parse("(i[t], a[t]) -> a[t]", allow_leaks=True)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_explanation_fits_a_terminal(layout):
    lines = explain(layout).splitlines()
    assert max(map(len, lines)) <= 100
    assert not any(line != line.rstrip() for line in lines)
