"""The verdict on made-up results: every sentence can be provoked, and none stands where it is false.

Shape letters: L layouts, S seeds, U users.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_page import CAN, LAYOUTS, Invented, card, compared, row
from test_significance import equal, sides_of
from tiny import assert_caught, assert_not_vacuous

from plait.compare import sensitivity as foresight
from plait.compare.results import Ability, Contrast, EpochTimes, MetricSummary, Summary, summarise
from plait.compare.sensitivity import Sensitivity, sensitivity
from plait.compare.significance import drawn, tell_apart
from plait.compare.verdict import FloorVerdict, MetricVerdict, Verdict, chief_metrics, verdict_of
from plait.metrics.intervals import Difference, Estimate
from plait.metrics.statistic import mean_over_users

MADE_UP = compared(LAYOUTS[:1], (0,))
COST = MADE_UP.rows[0].cost
MADE_UP = msgspec.structs.replace(MADE_UP, rows=())
HALF = 0.010  # what can be told
LATER = Sensitivity(users_for_half=6.0, with_one_seed_more=0.85)


@dataclasses.dataclass(frozen=True)
class Found:
    """A layout as it came out: of NDCG more is better, of RMSE less."""

    name: str
    ndcg: float | None = None
    rmse: float | None = None
    flops: float = 1e12  # of all epochs
    seeds: int = 2
    retrieves: bool = True
    scores: bool = True
    leaks: bool = False
    half: float = HALF
    later: Sensitivity = LATER
    epochs: int = 12
    apart: bool = False  # its seeds scatter more than those of others


def contrast(name, value, half, covers, later):
    p = 0.01 if abs(value) > half else 0.3
    difference = Difference(value, value - half / 2, value + half / 2, p)
    return Contrast(
        name, difference, p, value - half, value + half, covers, sensitivity=later if covers else None
    )


def column(found, metric):
    """Every layout's numbers in a metric, as `summarise` gives them."""
    own = {its.name: getattr(its, metric) for its in found if getattr(its, metric) is not None}
    if not own:
        return {}
    choose, better = (max, "higher") if metric == "ndcg" else (min, "lower")
    best = choose(own, key=own.__getitem__)
    first = next(its for its in found if its.name == best)
    return {
        its.name: MetricSummary(
            Estimate(own[its.name], own[its.name] - 0.02, own[its.name] + 0.02, better, 2006),
            0.001,
            None,
            None
            if its.name == best
            else contrast(
                best, own[its.name] - own[best], its.half, min(its.seeds, first.seeds) > 1, its.later
            ),
            scatters_apart=its.apart,
        )
        for its in found
        if its.name in own
    }


def comparison_of(*found):
    columns = {"ndcg@10": column(found, "ndcg"), "rmse:rating": column(found, "rmse")}
    layouts, summaries = [], []
    for its in found:
        no = Ability("no", "it cannot")
        invented = Invented(
            its.name, "i[t] -> i[t+1]", CAN if its.retrieves else no, CAN if its.scores else no, 1, None, None
        )
        layouts.append(card(invented, leaks=("a[t] shows itself",) if its.leaks else ()))
        cost = msgspec.structs.replace(COST, train_flops=its.flops, epochs=its.epochs)
        metrics = {
            metric: its_column[its.name] for metric, its_column in columns.items() if its.name in its_column
        }
        summaries.append(Summary(its.name, its.seeds, metrics, cost, EpochTimes(1.0, 1.0, 1.0)))
    return msgspec.structs.replace(
        MADE_UP, layouts=tuple(layouts), summaries=tuple(summaries), reference=found[0].name
    )


def lines_of(*found):
    return verdict_of(comparison_of(*found)).lines


LAC, PC, ITEM = (
    Found("lac", 0.100, flops=4e12),
    Found("pc", 0.096, flops=3e12),
    Found("item", 0.095, flops=2e12),
)
FAR = Found("far", 0.080, flops=1e12)


def test_where_nothing_is_told_apart_nobody_leads_and_the_cheapest_is_recommended():
    recommended, found, limit = lines_of(LAC, PC, ITEM)
    assert recommended == (
        "Recommended: item, the cheapest (by training FLOPs of an epoch) that is best, or cannot be told from it, in "
        "NDCG@10."
    )
    assert found == (
        "NDCG@10: none of lac, pc and item can be told from the best of them. "
        "The cheapest is item: in an epoch, 0.50× the training FLOPs of lac."
    )
    assert limit == (
        "NDCG@10: with 2,006 users and 2 seeds, differences to the best under 0.010 cannot be told; "
        "0.0050 needs about 12,000 users. One seed more of each would tell about 0.0085."
    )


def test_the_cheapest_is_the_same_whenever_its_runs_stopped():
    """Twice as many epochs of a layout take twice the FLOPs, and do not make it dear."""
    decided = lines_of(LAC, PC, ITEM)
    for factor in (2, 3, 7):
        longer = dataclasses.replace(ITEM, flops=factor * ITEM.flops, epochs=factor * ITEM.epochs)
        assert longer.flops >= LAC.flops and lines_of(LAC, PC, longer) == decided
    twice = dataclasses.replace(LAC, name="twin", flops=LAC.flops / 12 * 7, epochs=7, ndcg=0.099)
    assert lines_of(twice, LAC)[1].endswith("An epoch of each costs the same.")
    assert lines_of(twice, LAC)[0].startswith("Recommended: lac,"), "of equally cheap ones the better"


def test_what_is_worse_is_named_and_never_recommended_however_cheap():
    recommended, found, _ = lines_of(LAC, PC, FAR)
    assert recommended.startswith("Recommended: pc, the cheapest (by training FLOPs of an epoch) that")
    assert found == (
        "NDCG@10: pc cannot be told from the best, lac. Worse than the best: far. "
        "The cheapest is pc: in an epoch, 0.75× the training FLOPs of lac."
    )


def test_a_best_that_is_better_than_all_is_the_only_one():
    recommended, found, _ = lines_of(LAC, FAR)
    assert (
        recommended == "Recommended: lac, the only one that is best, or cannot be told from it, in NDCG@10."
    )
    assert found == "NDCG@10: lac is better than far."


def test_equal_values_have_equal_rank():
    twin = dataclasses.replace(LAC, name="twin")
    assert (
        lines_of(LAC, twin)[1] == "NDCG@10: lac and twin have equal values. An epoch of each costs the same."
    )
    assert "NDCG@10: lac and twin (equal values) are better than far." in lines_of(LAC, twin, FAR)[1]
    assert "pc cannot be told from the best, lac and twin (equal values)." in lines_of(LAC, twin, PC, FAR)[1]


def test_one_alone_leads_over_nobody():
    assert lines_of(LAC) == [
        "No verdict: lac alone was measured.",
        "NDCG@10: only lac was measured; there is nothing to compare it with.",
    ]


def test_one_seed_decides_nothing():
    one = [dataclasses.replace(its, seeds=1) for its in (LAC, FAR)]
    assert lines_of(*one) == [
        "No verdict: one seed tells no difference between layouts.",
        "NDCG@10: no verdict. Each has one seed, and another may turn the order round. A second seed would let "
        "differences be told.",
    ]
    assert "lac has one seed, and another" in lines_of(one[0], FAR)[1]


def test_a_layout_of_one_seed_among_others_is_left_open_and_never_recommended():
    recommended, found, _ = lines_of(LAC, PC, dataclasses.replace(ITEM, seeds=1))
    assert recommended.startswith("Recommended: pc,")
    assert found.endswith("Of one seed, so nothing is told of it: item.")


def test_what_cannot_do_the_task_is_said_and_not_recommended():
    for_free = dataclasses.replace(ITEM, retrieves=False)
    recommended, found, _ = lines_of(LAC, PC, for_free)
    assert recommended.startswith("Recommended: pc,") and "item (which cannot retrieve)" in found
    best = dataclasses.replace(LAC, retrieves=False)
    none, found, _ = lines_of(best, FAR)
    assert none == "No recommendation: nothing that can be used is among the best in NDCG@10."
    assert found.startswith(
        "NDCG@10: lac (which cannot retrieve) is better than far. None of the best can be"
    )
    scorer = Found("next", rmse=0.9, scores=False)
    assert "next (which cannot score a given item)" in lines_of(scorer, Found("lac", rmse=0.905))[1]


def test_what_reads_its_own_answers_is_no_measure_for_others():
    leaking = dataclasses.replace(LAC, leaks=True)
    assert lines_of(leaking, PC, FAR) == [
        "No verdict: nothing could be compared.",
        "NDCG@10: no verdict, since the best, lac, reads its own answers.",
    ]
    assert "item (which reads its own answers)" in lines_of(LAC, dataclasses.replace(ITEM, leaks=True))[1]


def test_the_recommended_is_among_the_best_everywhere():
    lac = dataclasses.replace(LAC, rmse=0.900)
    pc = dataclasses.replace(PC, rmse=0.950)
    recommended = lines_of(lac, pc)[0]
    assert (
        recommended.startswith("Recommended: lac, the only one")
        and "in NDCG@10 and RMSE rating." in recommended
    )
    worse = dataclasses.replace(lac, ndcg=0.050)
    assert lines_of(worse, pc)[0] == (
        "No recommendation: nothing that can be used is among the best in all of NDCG@10 and RMSE rating."
    )
    alone = dataclasses.replace(worse, ndcg=None)  # where it alone retrieves, that decides nothing
    assert lines_of(alone, pc)[0].startswith("Recommended: lac, the only one")
    assert lines_of(alone, pc)[0].endswith("in RMSE rating.")


def counted(
    better: Sequence[str], alike: Sequence[str] = (), *, metric: str = "ndcg@10", seeds: int = 2
) -> FloorVerdict:
    """How layouts stand to a baseline."""

    def against(value: float, p: float) -> Contrast:
        difference = Difference(value, value - 0.01, value + 0.01, p)
        return Contrast("rules", difference, p, difference.low, difference.high, seeds > 1)

    layouts = {name: against(0.05, 0.001) for name in better} | {name: against(0.001, 0.9) for name in alike}
    return FloorVerdict(metric, "rules", Estimate(0.1, 0.09, 0.11, "higher", 900), layouts)


def test_counting_is_recommended_where_no_layout_beats_it() -> None:
    """What trains nothing is cheaper than all that cannot be told from it."""
    metrics = verdict_of(comparison_of(LAC, ITEM)).metrics
    beaten, unbeaten = counted(["lac"], ["item"]), counted([], ["lac", "item"])
    other = counted(["lac"], metric="rmse:rating")
    assert Verdict(metrics, (unbeaten,)).lines[0] == (
        "Recommended: counting, which trains nothing (rules for NDCG@10). No layout is told to be better."
    )
    assert Verdict(metrics, (beaten,)).lines[0] == Verdict(metrics).lines[0]
    assert Verdict(metrics, (unbeaten, other)).lines[0] == (
        f"{Verdict(metrics).lines[0]} But no layout is told to be better than counting: rules in NDCG@10."
    )
    one_seed = counted([], ["lac"], seeds=1)
    assert Verdict(metrics, (one_seed,)).lines[0] == Verdict(metrics).lines[0]
    assert (
        "NDCG@10: the best count is rules with 0.1000 (0.0900 to 0.1100). Better: lac; not told apart from it: item."
        in (Verdict(metrics, (beaten,)).lines)
    )


def test_what_could_be_told():
    wide = dataclasses.replace(ITEM, half=0.0141, seeds=3)
    assert (
        "and 2 to 3 seeds, differences to the best under 0.010 cannot be told, nor those under 0.015 of a layout whose "
        "users depart more from the best's or has fewer seeds; " in lines_of(LAC, PC, wide)[-1]
    )
    noisy = dataclasses.replace(PC, later=Sensitivity(None, 0.7))
    assert "no number of users would tell 0.0050 with so few seeds." in lines_of(LAC, noisy)[-1]


def test_a_layout_whose_seeds_scatter_more_is_named_where_it_hides_differences():
    wild = dataclasses.replace(ITEM, half=0.17, apart=True)
    said = lines_of(LAC, PC, wild)[-1]
    assert "differences to the best under 0.010 cannot be told; " in said
    assert said.endswith(
        " Of item none under 0.17 is told: its seeds scatter more than those of the others, so they alone say how far."
    )
    for calm in (dataclasses.replace(wild, apart=False), dataclasses.replace(wild, half=HALF)):
        assert "scatter" not in lines_of(LAC, PC, calm)[-1]
    best = lines_of(dataclasses.replace(LAC, apart=True), PC)[-1]
    assert best.endswith(
        "The seeds of the best, lac, scatter more than those of the others: that hides differences."
    )


def test_the_layout_that_leaves_the_pool_of_seeds_is_marked():
    steady = [dataclasses.replace(LAYOUTS[0], name=f"steady {n}", ndcg=0.15) for n in range(4)]
    wild = dataclasses.replace(LAYOUTS[0], name="wild", ndcg=0.15)

    def statistics(shift):
        value_U = np.random.default_rng(5).normal(0, 0.1, 200)
        return {
            (its.name, seed): {
                "ndcg@10": mean_over_users(
                    np.arange(200), value_U + 0.001 * seed * n + (shift * seed if its is wild else 0)
                )
            }
            for n, its in enumerate([*steady, wild])
            for seed in (0, 1, 2)
        }

    rows = [row(its, seed, {}) for its in (*steady, wild) for seed in (0, 1, 2)]
    for shift, apart in ((0.5, ["wild"]), (0.0, [])):
        found = summarise(rows, statistics(shift), "steady 0", 100)
        assert [its.layout for its in found if its.metrics["ndcg@10"].scatters_apart] == apart


def test_of_a_handful_of_users_nothing_is_said_that_p_denies():
    few = comparison_of(LAC, FAR)
    summary = few.summaries[1]
    measured = summary.metrics["ndcg@10"]
    denied = msgspec.structs.replace(measured.vs_best, p_adjusted=0.0625)
    changed = msgspec.structs.replace(
        summary, metrics={"ndcg@10": msgspec.structs.replace(measured, vs_best=denied)}
    )
    of_few = msgspec.structs.replace(few, summaries=(few.summaries[0], changed))
    assert (
        "lac and far cannot be told apart" in verdict_of(of_few).lines[1] and verdict_of(of_few).limits == []
    )


def test_every_action_has_a_verdict():
    assert chief_metrics(("hr@10",), ()) == ("hr@10",) and chief_metrics((), ()) == ()
    liked = compared(seeds=(0,), scoring=("rmse:rating", "mae:rating", "auc:liked", "ne:liked"))
    assert [verdict.metric for verdict in verdict_of(liked).metrics] == ["ndcg@10", "rmse:rating"], (
        "as measured"
    )
    assert verdict_of(msgspec.structs.replace(liked, summaries=())).lines == [
        "No verdict: nothing was measured."
    ]


VALUES = st.sampled_from([0.100, 0.098, 0.095, 0.085, 0.080])
FOUND = st.builds(
    Found,
    st.just(""),
    st.none() | VALUES,
    st.none() | VALUES,
    st.sampled_from([0.5e12, 1e12, 4e12]),
    st.integers(1, 3),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([False] * 5 + [True]),
    st.sampled_from([0.010, 0.014]),
    st.builds(Sensitivity, st.sampled_from([None, 4.0, 90.0]), st.just(0.8)),
    st.sampled_from([3, 7, 12]),
)


def check_sentences(several, met):
    """What the sentences claim, held against the numbers that were put in."""
    found = [dataclasses.replace(its, name=f"L{n}") for n, its in enumerate(several)]
    by_name = {its.name: its for its in found}
    verdict = verdict_of(comparison_of(*found))
    text = "\n".join(verdict.lines)

    def distances(metric):
        values = {its.name: getattr(its, metric) for its in found if getattr(its, metric) is not None}
        best = (max if metric == "ndcg" else min)(values.values())
        return {name: abs(value - best) for name, value in values.items()}

    recommended = re.search(r"Recommended: (L\d+)", text)
    of_metric = {"NDCG@10": "ndcg", "RMSE rating": "rmse"}
    for label, metric in of_metric.items():
        line = next(
            (line for line in verdict.lines if line.startswith(f"{label}: ") and "users" not in line), ""
        )
        far = {
            name
            for name, distance in (distances(metric) if line else {}).items()
            if distance > by_name[name].half
        }
        worse = re.search(r"Worse than the best: ([^.]*)\.|better than ([^.]*)\.", line)
        if worse:
            named = set(re.findall(r"L\d+", worse[0].partition("better than" if worse[2] else ":")[2]))
            assert named <= far and all(by_name[name].seeds > 1 for name in named)
            met["worse"] += 1
        alike = re.search(r"none of (.*) can be told|: ([^:]*) cannot be told (?:from the best|apart)", line)
        if alike:
            named = set(re.findall(r"L\d+", alike[1] or alike[2]))
            assert named and not named & far
            met["alike"] += 1
        cheapest = re.search(r"The cheapest is (L\d+): in an epoch, .* FLOPs of (L\d+)\.", line)
        if cheapest:
            cheap, dear = (by_name[name] for name in cheapest.groups())
            assert cheap.flops / cheap.epochs < dear.flops / dear.epochs
            met["cheapest"] += 1
        if "equal values" in line:
            equals = set(
                re.findall(
                    r"L\d+",
                    re.search(r"((?:L\d+|\(which [^)]*\)|and|,| )+)\(equal values\)|: (.*) have equal", line)[
                        0
                    ],
                )
            )
            assert len({getattr(by_name[name], metric) for name in equals}) == 1 < len(equals)
            met["equal"] += 1
        if "no verdict" in line:
            assert recommended is None or label not in text.partition("\n")[0]
            met["no verdict"] += 1
        if recommended and label in text.partition("\n")[0]:
            chosen = by_name[recommended[1]]
            able = chosen.retrieves if metric == "ndcg" else chosen.scores
            assert recommended[1] not in far and able and not chosen.leaks and chosen.seeds > 1
            met["recommended"] += 1
        limit = re.search(rf"{label}: with .* under ([\d.]+) cannot be told", text)
        if limit:
            small = {
                name: distance for name, distance in distances(metric).items() if distance < float(limit[1])
            }
            assert not any(
                distance > by_name[n].half for n, distance in small.items() if by_name[n].seeds > 1
            )
            met["limit"] += 1
    assert "leads" not in text


def check_many(examples):
    met = Counter()

    @settings(max_examples=examples, phases=[Phase.generate])
    @given(st.lists(FOUND, min_size=1, max_size=5))
    def each(several):
        check_sentences(several, met)

    each()
    assert_not_vacuous(met, above=0)
    assert set(met) == {"worse", "alike", "equal", "no verdict", "recommended", "limit", "cheapest"}


def test_no_sentence_stands_where_it_is_false(monkeypatch):
    check_many(150)
    monkeypatch.setattr(MetricVerdict, "choice", property(lambda its: tuple(its.contenders)))
    assert_caught(check_many, 150)


def half_widths(num_seeds, flips, main_effect, more_users=1, trials=40):
    """Of the difference of two of five equal layouts: the half-widths, and what is foreseen of each."""
    found = []
    for n, value_LSU in enumerate(equal(5, num_seeds, flips, main_effect, trials)):
        seed_LS1 = value_LSU.mean(axis=2, keepdims=True) * (main_effect > 0)
        value_LSU = seed_LS1 + (value_LSU - seed_LS1) / np.sqrt(more_users)
        sides = sides_of(value_LSU)
        joint = drawn(sides, n)
        first, second = list(sides)[:2]
        (told,) = tell_apart([(joint[first], joint[second])])
        later = sensitivity((sides[first], sides[second]), list(sides.values()))
        half = told.together.high - told.together.value
        found.append((half, half * later.with_one_seed_more, later.users_for_half or np.inf))
    return np.array(found)


CELLS = [(1.0, 0.0), (0.5, 0.0), (0.5, 3.0)]


def check_one_seed_more(cell):
    """In the median: two seeds may scatter much by chance, and more is foreseen than comes."""
    foreseen = np.median(half_widths(2, *cell)[:, 1])
    assert foreseen == pytest.approx(np.median(half_widths(3, *cell)[:, 0]), rel=0.1)


@pytest.mark.parametrize("cell", CELLS)
def test_what_one_seed_more_would_tell_comes_true(cell, monkeypatch):
    check_one_seed_more(cell)
    as_now = foresight._Drawn.half_width
    monkeypatch.setattr(
        foresight._Drawn, "half_width", lambda its, users=1.0, more_seeds=0: as_now(its, users)
    )
    assert_caught(check_one_seed_more, cell)


def test_the_number_of_users_that_would_tell_half_comes_true():
    of_users = half_widths(2, 1.0, 0.0)
    factor = float(np.median(of_users[:, 2]))
    later = half_widths(2, 1.0, 0.0, factor)
    assert np.median(later[:, 0]) == pytest.approx(np.median(of_users[:, 0]) / 2, rel=0.1)
    assert np.isinf(np.median(half_widths(2, 0.5, 10.0)[:, 2])), (
        "seeds that move all users are not outnumbered"
    )


def test_what_cannot_be_foreseen_is_not():
    one, other = sides_of(next(equal(2, 2, 0.5, 1.0))).values()
    single = dataclasses.replace(one, runs={0: one.runs[0]})
    assert sensitivity((one, single), [one, single]) is None
    assert sensitivity((one, one), [one, other]) is not None, "two runs of one layout scatter"
    counted = dataclasses.replace(single, has_seeds=False)
    assert sensitivity((counted, counted), [counted]) is None
    assert sensitivity((one, counted), [one, other, counted]).with_one_seed_more < 1
