"""The report on invented runs: every number below is made up, and only has the shape of a real comparison."""

import dataclasses
import html
import html.parser
import io
import re
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console
from tiny import assert_caught

from plait.compare import charted, notes, presentation, words
from plait.compare.page import html_page, terminal_table
from plait.compare.results import (
    Ability,
    Comparison,
    Cost,
    DatasetFacts,
    LayoutCard,
    Point,
    Row,
    summarise,
)
from plait.compare.verdict import verdict_of
from plait.compare.words import NOTHING, times
from plait.evaluation.provenance import Provenance
from plait.metrics.intervals import Estimate, bootstrap
from plait.metrics.scoring import labelled, rmse
from plait.metrics.statistic import mean_over_users

ORIGIN = Provenance(version="0.0", commit="0123456789ab", machine="2 cores", date="2000-01-01")
U, SEEDS = 401, (0, 1, 2)
CAN, EARLY, LATE = Ability("yes"), Ability("early"), Ability("late")
NO_ITEM, NO_ACTION = Ability("no", "it predicts no item"), Ability("no", "it predicts no action")


@dataclasses.dataclass(frozen=True)
class Invented:
    """A layout and how well it does."""

    name: str
    notation: str
    retrieves: Ability
    scores: Ability
    per_event: int
    ndcg: float | None
    rmse: float | None
    flops: float = 4e13


LAYOUTS = (
    Invented("item", "i[t] -> i[t+1]", CAN, NO_ACTION, 1, 0.158, None),
    Invented("action_out", "i[t] -> a[t]", NO_ITEM, EARLY, 1, None, 0.914),
    Invented("next_action", "(i[t], a[t]) -> a[t+1]", NO_ITEM, Ability("no", "P2"), 1, None, 0.981),
    Invented("pc", "(i[t], a[t]) -> (i[t+1], a[t+1] | i[t+1])", CAN, LATE, 1, 0.161, 0.905),
    Invented("lac", "(i[t], a[t-1]) -> (i[t+1], a[t])", CAN, EARLY, 1, 0.1645, 0.893, 4.1e13),
    Invented("interleaved", "i[t] -> a[t]; a[t] -> i[t+1]", CAN, EARLY, 2, 0.167, 0.890, 9.3e13),
)


def card(layout, **changes):
    tokens = tuple(f"i{n} a{n - 1}" for n in range(3 * layout.per_event))
    mask = tuple("".join("01"[k <= q] for k in range(len(tokens))) for q in range(len(tokens)))
    fields = {
        "name": layout.name,
        "notation": layout.notation,
        "retrieves": layout.retrieves,
        "scores": layout.scores,
        "audit": {
            "P1 information": "full: items and actions both inform and supervise",
            "P3 no leak": "kept",
        },
        "tokens": tokens,
        "mask": mask,
        "drawing": "token 0: shows i0; predicts i1",
    }
    return LayoutCard(**fields | changes)


def measured(layout, seed, users_seed=0):
    """Users differ a lot, layouts by what they are worth, seeds by a little."""
    users = np.random.default_rng(users_seed)
    hardness_U, noise_U = users.normal(0, 0.25, U), users.normal(0, 0.9, U)
    seeded = np.random.default_rng((seed, len(layout.name)))
    wobble = seeded.normal(0, 0.0005)
    found = {}
    if layout.ndcg is not None:
        value_U = layout.ndcg + wobble + hardness_U - hardness_U.mean() + seeded.normal(0, 0.01, U)
        found["ndcg@10"] = mean_over_users(np.arange(U), value_U)
        found["hr@10"] = mean_over_users(np.arange(U), 1.9 * value_U)
    if layout.rmse is not None:
        predicted_U = 3 + (layout.rmse + wobble) * noise_U / np.sqrt((noise_U**2).mean())
        found["rmse:rating"] = rmse(labelled(np.arange(U), predicted_U, np.full(U, 3.0)))
    return found


def row(layout, seed, statistics, **changes):
    wall_s = layout.flops / 3e10
    cost = Cost(
        train_flops=layout.flops,
        train_tokens=2.1e7 * layout.per_event,
        wall_s=1.2 * wall_s,
        train_wall_s=wall_s,
        train_cpu_s=1.7 * wall_s,
        epochs=12,
        best_epoch=9,
        peak_memory_mb=734.0,
        tokens_per_event=layout.per_event,
        num_parameters=1_234_567,
    )
    final = {"ndcg@10": layout.ndcg, "rmse:rating": layout.rmse}
    curve = tuple(
        Point(
            epoch,
            wall_s * epoch / 12,
            layout.flops * epoch / 12,
            {
                name: float(value + (-0.05 if name == "ndcg@10" else 0.15) * np.exp(-epoch / 3 - seed / 9))
                for name, value in final.items()
                if value is not None
            },
        )
        for epoch in range(1, 13)
    )
    fields = {
        "layout": layout.name,
        "seed": seed,
        "metrics": {name: bootstrap(s, 100).estimate for name, s in statistics.items()},
        "cost": cost,
        "curve": curve,
        "protocol": f"leave-one-out; seed {seed}",
        "provenance": ORIGIN,
    }
    return Row(**fields | changes)


def compared(which=LAYOUTS, seeds=SEEDS, rows=None, **changes):
    statistics = {(layout.name, seed): measured(layout, seed) for layout in which for seed in seeds}
    rows = rows or [row(layout, seed, statistics[layout.name, seed]) for layout in which for seed in seeds]
    fields = {
        "dataset": DatasetFacts(
            name="invented",
            num_users=U,
            num_items=1009,
            num_events=64_007,
            tie_share=0.44,
            note="no real data",
        ),
        "retrieval": ("hr@10", "ndcg@10"),
        "scoring": ("rmse:rating",),
        "charted": ("ndcg@10", "rmse:rating"),
        "reference": "item",
        "layouts": tuple(card(layout) for layout in which),
        "rows": tuple(rows),
        "summaries": summarise(rows, statistics, "item", min_draws=500),
        "protocol": "leave-one-out; full catalogue; seen items filtered; ties against the model",
        "cap": "12 epochs",
        "command": "plait compare invented --layouts item,lac --seeds 3 --out <DIR>",
        "machine": "2 cores",
        "commit": "0123456789ab",
        "date": "2000-01-01",
        "version": "0.0",
    }
    return Comparison(**fields | changes)


@pytest.fixture(scope="module")
def comparison():
    return compared()


def by_layout(comparison):
    return {summary.layout: summary for summary in comparison.summaries}


def rendered(comparison, width=100):
    console = Console(width=width, file=io.StringIO(), force_terminal=False, legacy_windows=False)
    console.print(terminal_table(comparison, width))
    return console.file.getvalue()


def test_a_summary_averages_seeds_and_tells_layouts_apart(comparison):
    summaries = by_layout(comparison)
    lac = summaries["lac"].metrics["ndcg@10"]
    values = [row.metrics["ndcg@10"].value for row in comparison.rows if row.layout == "lac"]
    assert lac.estimate.value == pytest.approx(np.mean(values))
    assert lac.spread == pytest.approx(np.std(values, ddof=1))
    assert lac.estimate.low < lac.estimate.value < lac.estimate.high
    assert summaries["interleaved"].metrics["ndcg@10"].vs_best is None
    assert lac.vs_best.other == "interleaved" and lac.vs_reference.other == "item"
    assert lac.vs_reference.difference.value == pytest.approx(
        lac.estimate.value - summaries["item"].metrics["ndcg@10"].estimate.value
    )
    assert summaries["item"].metrics["ndcg@10"].vs_best.is_significant
    assert lac.estimate.high > summaries["interleaved"].metrics["ndcg@10"].estimate.low, (
        "only paired they differ"
    )


def test_lower_is_better_where_the_metric_says_so(comparison):
    rmses = {name: s.metrics["rmse:rating"] for name, s in by_layout(comparison).items() if name != "item"}
    assert [name for name, m in rmses.items() if m.vs_best is None] == ["interleaved"]
    assert "rmse:rating" not in by_layout(comparison)["item"].metrics
    assert all(m.vs_reference is None for m in rmses.values()), "the reference has no such metric"


def test_training_noise_forbids_the_mark():
    """Many users make a tiny difference sure on these users; whether a new seed keeps it is open."""
    steady = Invented("steady", "i[t] -> i[t+1]", CAN, NO_ACTION, 1, 0.160, None)
    shaky = Invented("shaky", "i[t] -> i[t+1]", CAN, NO_ACTION, 1, 0.159, None)
    hardness_U = np.random.default_rng(0).normal(0, 0.2, U)
    statistics = {
        (layout.name, seed): {"ndcg@10": mean_over_users(np.arange(U), layout.ndcg + shift + hardness_U)}
        for layout, shifts in ((steady, (0, 0, 0)), (shaky, (-0.02, 0.0, 0.009)))
        for seed, shift in enumerate(shifts)
    }
    rows = [row(layout, seed, {}) for layout in (steady, shaky) for seed in SEEDS]
    contrast = summarise(rows, statistics, "steady", 100)[1].metrics["ndcg@10"].vs_best
    assert not contrast.is_significant
    one_seed = [r for r in rows if r.seed == 0]
    contrast = summarise(one_seed, statistics, "steady", 100)[1].metrics["ndcg@10"].vs_best
    assert contrast.p_adjusted < 0.001 and not contrast.is_significant, "one seed tells nothing of another"


def test_one_seed_marks_nothing_and_says_so():
    one, three = compared(seeds=(0,)), compared()

    def marks(of):
        return "".join(cell.marks for line in presentation.lines(of) for cell in line.cells.values())

    assert "*" in marks(three) and "*" not in marks(one)
    assert "one seed tells no difference" in html_page(one) and "one seed" not in html_page(three)
    assert verdict_of(one).recommended is None and verdict_of(three).recommended is not None


def test_two_seeds_say_what_they_cannot_tell():
    assert "Two seeds do not tell a layout whose runs scatter more" in " ".join(
        notes.rules(compared(seeds=(0, 1)))
    )


def test_the_intervals_on_the_page_are_those_of_the_p_beside_them():
    met = {True: 0, False: 0}
    close = dataclasses.replace(LAYOUTS[5], name="as good", ndcg=0.1669, rmse=0.8901)
    for summary in compared((*LAYOUTS, close)).summaries:
        for measured in summary.metrics.values():
            for contrast in filter(None, (measured.vs_best, measured.vs_reference)):
                assert contrast.is_significant == (not contrast.low <= 0 <= contrast.high)
                assert f"({words.signed(contrast.low)} to " in presentation._words(
                    contrast, False, "the best"
                )
                met[contrast.is_significant] += 1
    assert min(met.values()) > 0


def test_the_whole_column_is_corrected_for():
    close = dataclasses.replace(LAYOUTS[4], ndcg=0.1662)
    alone = compared((close, LAYOUTS[5]), reference="lac")
    among = by_layout(compared((*LAYOUTS[:4], close, LAYOUTS[5])))["lac"].metrics["ndcg@10"].vs_best
    contrast = by_layout(alone)["lac"].metrics["ndcg@10"].vs_best
    assert among.difference.value == contrast.difference.value
    assert among.p_adjusted > contrast.p_adjusted >= among.difference.p


def test_summaries_refuse_different_users_and_missing_statistics():
    rows = [row(layout, 0, {}) for layout in (LAYOUTS[0], LAYOUTS[3])]
    one, other = measured(LAYOUTS[0], 0), {"ndcg@10": mean_over_users(np.arange(5), np.zeros(5))}
    with pytest.raises(ValueError, match=r"pc against item: .* not the same users: 5 and 401"):
        summarise(rows, {("item", 0): one, ("pc", 0): other}, "item", 40)
    with pytest.raises(ValueError, match="no statistics of pc seed 0"):
        summarise(rows, {("item", 0): one}, "item", 40)


def test_a_comparison_checks_its_names():
    with pytest.raises(ValueError, match=r"Comparison.reference: lum not among item, action_out"):
        compared(reference="lum")
    with pytest.raises(ValueError, match=r"Comparison.charted: auc not among"):
        compared(charted=("auc",))
    with pytest.raises(ValueError, match="expected a square of 0 and 1 over 3 tokens"):
        card(LAYOUTS[0], mask=("100", "11", "111"))
    with pytest.raises(ValueError, match="Row 'item' seed 0: finished, but without a cost"):
        Row(layout="item", seed=0, metrics={}, cost=None, protocol="", provenance=ORIGIN)


def test_rows_survive_json(comparison):
    assert msgspec.json.decode(msgspec.json.encode(comparison), type=Comparison) == comparison


def test_the_terminal_table_fits_and_says_all(comparison):
    text = rendered(comparison)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    lines = {
        line.split()[0]: line for line in reversed(text.splitlines()) if line.strip()
    }  # table before notes
    best = by_layout(comparison)["interleaved"].metrics["ndcg@10"].estimate
    assert f" {best.value:.4f} ±{best.half_width:.4f} ".replace("±0", "±") in lines["interleaved"]
    assert re.search(r"0\.15\d\d ±\.0\d{3}\*", lines["item"]), "item differs from the best"
    assert lines["item"].split()[-1] == NOTHING and lines["action_out"].split()[-2:] == [NOTHING, "early"]
    assert times(9.3 / 4) in lines["interleaved"] and times(1.0) in lines["item"]
    assert "next_action cannot score a candidate: P2; ‡ measured on the event that came" in text
    rule = "p < 0.05 that chance parts any two of the column as far (paired; users and seeds drawn)"
    assert rule in " ".join(text.split())
    assert 0.0 not in [float(n) for n in re.findall(r"(?<![.\d])\d+\.\d+(?!\d)", text)], "a gap is never 0"


def test_best_is_bold_and_second_underlined(comparison):
    table = terminal_table(comparison)
    names = [str(row[0]) for row in table.rows]
    for column in (2, 3):  # of a metric where higher, and of one where lower is better
        styles = [row[column].style for row in table.rows]
        assert [name for name, style in zip(names, styles, strict=True) if style == "bold"] == ["interleaved"]
        assert [name for name, style in zip(names, styles, strict=True) if style == "underline"] == ["lac"]


def test_equal_values_are_equally_good():
    twins = tuple(
        dataclasses.replace(LAYOUTS[4], name=name) for name in ("lac_1", "lac_2")
    )  # names of one length
    found = compared((*twins, LAYOUTS[3]), reference="pc")
    places = [line.cells["ndcg@10"].place for line in presentation.lines(found)]
    assert places == ["best", "best", "other"], "a third is not the second"


class Outline(html.parser.HTMLParser):
    """Checks that tags close in order, and gathers what the page links to and says."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.urls, self.ids, self.unlabelled = [], [], [], [], []
        self.headings, self.unscoped, self.columns = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.urls += [value for name, value in attrs.items() if name in ("src", "href", "xlink:href")]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag == "svg" and "aria-label" not in attrs and "aria-hidden" not in attrs:
            self.unlabelled.append(attrs)
        if tag == "th" and attrs.get("scope") not in ("row", "col"):
            self.unscoped.append(attrs)
        if tag == "tr":
            self.columns.append(0)
        if tag in ("td", "th"):
            self.columns[-1] += int(attrs.get("colspan", 1))
        if tag in ("h1", "h2", "h3"):
            self.headings.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())


def outline(page):
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_the_page_stands_alone(comparison, tmp_path):
    page = html_page(comparison)
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    found = outline(page)
    assert all(re.match(r"#|runs/|rows\.jsonl$|comparison\.json$|summary\.json$", url) for url in found.urls)
    assert not re.search(r"url\((?!#)|@import|fetch\(|https?:", page)
    assert not {"img", "iframe", "link"} & set(found.tags) and found.tags.count("script") == 1
    assert found.unlabelled == [] and len(found.ids) == len(set(found.ids))
    assert found.tags.count("figure") == 6, "two metrics: what was told, what it costs, how it was learned"
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page
    assert len(page) < 200_000


def check_structure(page):
    """Every contents link leads somewhere, every heading cell says what it heads, and every row has all columns."""
    found = outline(page)
    inside = [url.removeprefix("#") for url in found.urls if url.startswith("#")]
    assert len(inside) > 6 and set(inside) <= set(found.ids), set(inside) - set(found.ids)
    assert found.unscoped == [] and found.headings[0] == "h1" and found.headings.count("h1") == 1
    for table in re.findall(r"<table.*?</table>", page, re.DOTALL):
        widths = outline(table).columns
        assert len(set(widths)) == 1, widths
    for figure in re.findall(r"<figure.*?</figure>", page, re.DOTALL):
        assert len(re.search(r'role="img" aria-label="([^"]*)"', figure)[1]) > 30


def test_the_page_has_a_structure(comparison):
    page = html_page(comparison)
    check_structure(page)
    assert page.index('id="verdict"') < page.index("<nav") < page.index("<table")
    for broken in (
        page.replace('id="key"', ""),
        page.replace('scope="row"', "", 1),
        page.replace("<td", "<td colspan='2'", 1),
    ):
        assert_caught(check_structure, broken)


def test_the_page_says_the_verdict(comparison):
    page = html.unescape(html_page(comparison, Path("runs/my data")))
    for line in verdict_of(comparison).lines:
        assert f">{line}</" in page
    assert "<pre>plait recommend 'runs/my data/runs/interleaved-seed0' --user USER -k 10</pre>" in page
    assert "Recommender.from_pretrained('runs/my data/runs/interleaved-seed0/model')" in page
    assert "plait recommend" not in html_page(compared(seeds=(0,))), "nothing is chosen"


def test_the_page_warns_of_ties(comparison):
    assert "44.0 % of the events share a time" in html_page(comparison)
    calm = msgspec.structs.replace(
        comparison, dataset=msgspec.structs.replace(comparison.dataset, tie_share=0.01)
    )
    assert "share a time with another event of their user. Their order" not in html_page(calm)


def test_four_kinds_of_nothing_are_four_words():
    statistics = {(layout.name, 0): measured(layout, 0) for layout in LAYOUTS}
    rows = [row(layout, 0, statistics[layout.name, 0]) for layout in LAYOUTS if layout.name != "pc"]
    rows.append(row(LAYOUTS[3], 0, {}, cost=None, curve=(), status="failed", note="loss is nan"))
    found = compared(seeds=(0,), rows=rows, scoring=("rmse:rating", "mae:rating"))
    lac = next(its for its in found.summaries if its.layout == "lac")
    undefined = msgspec.structs.replace(
        lac.metrics["rmse:rating"], estimate=Estimate(None, None, None, "lower", 0)
    )
    changed = msgspec.structs.replace(lac, metrics=lac.metrics | {"rmse:rating": undefined})
    found = msgspec.structs.replace(
        found, summaries=tuple(changed if its is lac else its for its in found.summaries)
    )
    missing = {line.card.name: line.cells for line in presentation.lines(found)}
    assert missing["item"]["rmse:rating"].missing == "cannot"
    assert missing["lac"]["mae:rating"].missing == "not measured"
    assert missing["lac"]["rmse:rating"].missing == "undefined"
    assert missing["pc"]["rmse:rating"].missing == "failed"
    assert {"cannot", "not measured", "undefined", "failed"} <= set(presentation.KEY)
    check_structure(html_page(found))


def test_a_name_is_no_markup_and_is_whole():
    hostile = ("<script>alert(1)</script>", "x" * 87, '"&\N{HEBREW LETTER ALEF}')
    page = html_page(
        compared(
            tuple(
                dataclasses.replace(its, name=name) for its, name in zip(LAYOUTS[3:], hostile, strict=True)
            ),
            reference=hostile[0],
        )
    )
    check_structure(page)
    assert page.count("<script") == 1 and "&lt;script&gt;alert" in page and "x" * 87 in page


def colours(page):
    """The custom properties of the page, by day and by night."""
    found = []
    for block in re.findall(r":root \{(.*?)\}", page, re.DOTALL)[:2]:
        found.append(dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)))
    return found


def linear(colour):
    value_C = np.array([int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)])
    return np.where(value_C <= 0.04045, value_C / 12.92, ((value_C + 0.055) / 1.055) ** 2.4)


def contrast_of(one, other):
    """Source: WCAG 2.2, contrast ratio and relative luminance."""
    lights = sorted(float(linear(of) @ [0.2126, 0.7152, 0.0722]) + 0.05 for of in (one, other))
    return lights[1] / lights[0]


BLIND = {  # Source: Machado, Oliveira & Fernandes, IEEE TVCG 15(6), 2009, severity 1
    "no": np.eye(3),
    "red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab(linear_C):
    """CIE L*a*b* under D65."""
    white_C = np.array([0.9505, 1.0, 1.089])
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    share_C = np.array(to_xyz) @ np.clip(linear_C, 0, 1) / white_C
    root_C = np.where(share_C > 0.008856, np.cbrt(share_C), 7.787 * share_C + 16 / 116)
    return np.array([116 * root_C[1] - 16, 500 * (root_C[0] - root_C[1]), 200 * (root_C[1] - root_C[2])])


def check_colours(page):
    """Text stands out as WCAG AA asks, marks by 3 to 1, and no two layouts share a hue to any eye."""
    compared_pairs = 0
    for scheme in colours(page):
        for paper in ("page", "card", "best", "verdict", "code"):
            for ink in ("text", "quiet", "link") if paper in ("page", "card") else ("text",):
                assert contrast_of(scheme[ink], scheme[paper]) >= 4.5, (ink, paper)
        for fact in ("item", "action"):
            assert contrast_of(scheme["text"], scheme[fact]) >= 4.5
            assert contrast_of(scheme[f"{fact}-line"], scheme["card"]) >= 3
        looks = [scheme[f"c{n}"] for n in range(8)]
        assert min(contrast_of(look, scheme[paper]) for look in looks for paper in ("page", "card")) >= 3
        for matrix in BLIND.values():
            seen = [lab(np.array(matrix) @ linear(look)) for look in looks]
            for n, one in enumerate(seen):
                for other in seen[:n]:
                    assert np.linalg.norm(one - other) >= 20
                    compared_pairs += 1
    assert compared_pairs == 2 * 4 * 28


def test_colours_can_be_told_by_every_eye(comparison):
    page = html_page(comparison)
    check_colours(page)
    for of in ("quiet", "c4"):
        was = colours(page)[0]
        to = was["page"] if of == "quiet" else was["c1"]
        assert_caught(check_colours, page.replace(f"--{of}: {was[of]}", f"--{of}: {to}"))


def test_the_page_says_what_it_rests_on(comparison):
    page = html_page(comparison)
    for text in (comparison.protocol, comparison.commit, comparison.machine, "401 users", "44.0 % <a"):
        assert text in page
    assert "plait compare invented --layouts item,lac --seeds 3 --out &lt;DIR&gt;" in page, "escaped"
    assert "<DIR>" not in page
    assert re.search(r'<td class="best"[^>]*><b>0\.16\d\d</b>', page)
    assert page.count("cannot<small>it predicts no item</small>") == 2
    assert "nan" not in page.partition("<script>")[0].lower().replace("predominan", "")


def test_a_capped_a_failed_and_a_leaking_layout_are_marked():
    statistics = {(layout.name, 0): measured(layout, 0) for layout in LAYOUTS[:2]}
    item, failing, leaking = LAYOUTS[0], LAYOUTS[1], dataclasses.replace(LAYOUTS[3], name="peeks")
    rows = [
        row(item, 0, statistics["item", 0], status="capped", note="cap of 3 epochs"),
        row(failing, 0, {}, cost=None, curve=(), status="failed", note="loss is nan at step 7"),
    ]
    found = compared(
        LAYOUTS[:2],
        seeds=(0,),
        rows=rows,
        layouts=(card(item), card(failing), card(leaking, leaks=("a[t] shows itself",))),
    )
    text = " ".join(rendered(found).split())
    assert "item†" in text and "† capped, cap of 3 epochs: item (seed 0)" in text
    assert "failed, loss is nan at step 7: action_out (seed 0)" in text
    assert "‼ peeks reads its own answers: a[t] shows itself" in text and "peeks‼" in text
    assert "one seed each: training noise is not covered" in text
    notation = dataclasses.replace(item, name="i[t] -> a[t]")
    assert "i[t] -> a[t]" in rendered(compared((item, notation), seeds=(0,))), "no brackets lost to markup"
    page = html_page(found)
    outline(page)
    why = "seed 0 failed: loss is nan at step 7"
    assert page.count(f"no run finished: {why}") == 1 and page.count(f">{why}</td>") == 2, "in every table"


def test_an_undefined_metric_is_a_dash():
    undefined = Estimate(None, None, None, "higher", 0)
    found = compared(LAYOUTS[:1], seeds=(0,), scoring=(), charted=("ndcg@10",))
    summary = found.summaries[0]
    column = summary.metrics | {
        "hr@10": msgspec.structs.replace(summary.metrics["hr@10"], estimate=undefined)
    }
    found = msgspec.structs.replace(found, summaries=(msgspec.structs.replace(summary, metrics=column),))
    (line,) = presentation.lines(found)
    assert (line.cells["hr@10"].value, line.cells["hr@10"].plus_minus) == (NOTHING, "")
    assert line.cells["hr@10"].against_best == NOTHING
    outline(html_page(found))


def test_what_has_no_place_on_a_chart_is_not_drawn(comparison):
    """Intervals without end, where too few draws were made, and a layout that trained for nothing."""

    def without_end(measured):
        endless = {
            name: contrast and msgspec.structs.replace(contrast, low=-np.inf, high=np.inf)
            for name, contrast in (("vs_best", measured.vs_best), ("vs_reference", measured.vs_reference))
        }
        return msgspec.structs.replace(measured, **endless)

    summaries = tuple(
        msgspec.structs.replace(
            its,
            metrics={metric: without_end(measured) for metric, measured in its.metrics.items()},
            cost=msgspec.structs.replace(its.cost, train_flops=0.0) if its.layout == "pc" else its.cost,
        )
        for its in comparison.summaries
    )
    found = msgspec.structs.replace(comparison, summaries=summaries)
    costs, learned = charted.charts(found, "ndcg@10")
    assert (costs.kind, learned.kind) == ("costs", "learning")
    assert [mark.title.partition(":")[0] for mark in costs.marks] == ["item", "lac", "interleaved"]
    assert verdict_of(found).limits == [] and "inf" not in " ".join(verdict_of(found).lines)
    check_structure(html_page(found))


def test_without_jinja_the_error_says_what_to_install(comparison, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'plait\[report\]'"):
        html_page(comparison)


def test_many_layouts_take_more_draws():
    """With 1000 draws no p-value is below 0.002: times 30 layouts, and nothing could be significant."""
    worse = [dataclasses.replace(LAYOUTS[0], name=f"item_{n:02}", ndcg=0.1 + n / 1000) for n in range(31)]
    statistics = {(layout.name, 0): {"ndcg@10": measured(layout, 0)["ndcg@10"]} for layout in worse}
    summaries = summarise([row(layout, 0, {}) for layout in worse], statistics, "item_00")
    assert summaries[0].metrics["ndcg@10"].vs_reference is None
    assert summaries[30].metrics["ndcg@10"].vs_reference.p_adjusted < 0.05 < 30 * 2 / 1001


def with_twelve_actions():
    """Two metrics for each of twelve actions; the numbers are one action's."""
    names = [f"{metric}:action{n}" for n in range(12) for metric in ("rmse", "mae")]
    found = compared(seeds=(0,))
    summaries = []
    for summary in found.summaries:
        one = summary.metrics.get("rmse:rating")
        copies = dict.fromkeys(names, one) if one else {}
        summaries.append(msgspec.structs.replace(summary, metrics=summary.metrics | copies))
    return msgspec.structs.replace(
        found,
        scoring=tuple(names),
        charted=("ndcg@10",),
        summaries=tuple(summaries),
        retrieval=("hr@10", "ndcg@10", "mrr"),
    )


def headings(table):
    return [number.heading for number in table.headings[1:-4]]


@pytest.mark.parametrize("width", [60, 100, 140, 200, 1000])
def test_no_metric_is_left_out_in_silence(width):
    comparison = with_twelve_actions()
    table, text = terminal_table(comparison, width), rendered(comparison, width)
    shown, said = headings(table), " ".join(text.split())
    assert max(map(len, text.splitlines())) <= width
    every = [presentation.metric_label(metric) for metric in (*comparison.retrieval, *comparison.scoring)]
    left_out = said.partition("On the page only: ")[2].partition(". Protocol")[0]
    assert [label for label in every if label not in shown] == [
        label for label in left_out.split(", ") if label
    ]
    if width == 1000:
        assert shown == every and "On the page only" not in said
    else:
        assert shown == ["HR@10", "NDCG@10", *(f"RMSE action{n}" for n in range(12))], "in further blocks"
        assert len(table.blocks(width)) > 1


def test_all_metrics_are_shown_where_they_fit(comparison):
    more = msgspec.structs.replace(comparison, scoring=("rmse:rating", "mae:rating"))
    assert headings(terminal_table(more, 140)) == ["HR@10", "NDCG@10", "RMSE rating", "MAE rating"]
    assert headings(terminal_table(more, 80)) == ["HR@10", "NDCG@10", "RMSE rating"]


def test_the_protocol_stands_once_in_the_table(comparison):
    assert " ".join(rendered(comparison).split()).count(f"Protocol: {comparison.protocol}") == 1


def test_runs_of_several_commits_or_machines_are_told_apart(comparison):
    what = "not all of one commit and machine"
    assert what not in rendered(comparison, 1000) and what not in html_page(comparison)
    later = msgspec.structs.replace(ORIGIN, date="2000-01-02")
    rows = [
        msgspec.structs.replace(row, provenance=later) if row.seed == 2 else row for row in comparison.rows
    ]
    dated = msgspec.structs.replace(comparison, rows=tuple(rows))
    assert what not in rendered(dated, 1000), "a date alone changes nothing"
    for changed in ({"commit": "ba9876543210-dirty"}, {"machine": "64 cores"}):
        other = msgspec.structs.replace(ORIGIN, **changed)
        rows = [
            msgspec.structs.replace(row, provenance=other)
            if (row.layout, row.seed) in (("lac", 1), ("lac", 2))
            else row
            for row in comparison.rows
        ]
        mixed = msgspec.structs.replace(comparison, rows=tuple(rows))
        (value,) = changed.values()
        for text in (" ".join(rendered(mixed, 1000).split()), html_page(mixed)):
            assert what in text and re.search(rf"{value}[^;]*: lac \(seed 1, 2\)", text)
            assert "item (seed 0, 1, 2)" in text


def test_peak_memory_that_nobody_told_is_a_dash(comparison):
    cost = msgspec.structs.replace(comparison.rows[0].cost, peak_memory_mb=None)
    rows = [row(LAYOUTS[0], seed, {}) for seed in SEEDS]
    statistics = {("item", seed): measured(LAYOUTS[0], seed) for seed in SEEDS}
    assert summarise(rows, statistics, "item", 100)[0].cost.peak_memory_mb == 734.0
    rows[1] = msgspec.structs.replace(rows[1], cost=cost)
    found = compared(LAYOUTS[:1], rows=rows, scoring=(), charted=("ndcg@10",))
    (line,) = presentation.lines(found)
    assert line.cost[presentation.COST_COLUMNS.index("peak memory")] == (NOTHING, "")


def test_times_that_are_not_steady_are_told(comparison):
    """Of one layout a run was twice as slow from its second epoch on: a machine that did something else."""
    assert not [note for note in notes.notes(comparison) if "not steady" in note]
    assert by_layout(comparison)["lac"].epoch_times.high_s == pytest.approx(
        by_layout(comparison)["lac"].epoch_times.low_s
    )

    def slowed(row):
        if (row.layout, row.seed) != ("lac", SEEDS[-1]):
            return row
        points = [
            msgspec.structs.replace(p, train_wall_s=p.train_wall_s * (2 - 1 / p.epoch)) for p in row.curve
        ]
        return msgspec.structs.replace(row, curve=tuple(points))

    slow = compared(rows=[slowed(row) for row in comparison.rows])
    [note] = [note for note in notes.notes(slow) if "not steady" in note]
    assert "lac " in note and "item" not in note and "Processor time says more" in note
    assert by_layout(slow)["lac"].epoch_times.median_s == pytest.approx(
        by_layout(comparison)["lac"].epoch_times.median_s
    )


def test_what_an_epoch_supervises_stands_in_the_table():
    cards = [card(layout, targets_per_epoch={"items": 9000, "actions": 450}) for layout in LAYOUTS]
    page = html_page(compared(layouts=tuple(cards)))
    assert len(re.findall("9.00 k items<small>450 actions<", page)) == len(LAYOUTS)


def test_an_interval_that_is_far_from_symmetric_is_written_out(comparison):
    """Of one layout the values are hits of few users; the others keep their plus-minus."""
    few = Estimate(0.02, 0.005, 0.075, "higher", 943, 18.7)
    summaries = tuple(
        msgspec.structs.replace(
            its, metrics=its.metrics | {"hr@10": msgspec.structs.replace(its.metrics["hr@10"], estimate=few)}
        )
        if its.layout == "pc"
        else its
        for its in comparison.summaries
    )
    found = msgspec.structs.replace(comparison, summaries=summaries)
    cells = {line.card.name: line.cells["hr@10"] for line in presentation.lines(found)}
    assert cells["pc"].around == "0.0050 to 0.0750" and cells["lac"].around.startswith("±0.")
    page = html_page(found)
    assert "<small>0.0050 to 0.0750</small>" in page and "±0.0350" not in page
    assert f"<small>{cells['lac'].around}</small>" in page
    assert "<td>19 of 943</td>" in page, "how many users carry it"
    assert "carried by" in presentation.KEY and ">carried by</th>" in page


def test_answers_that_a_filter_makes_certain_misses_are_told(comparison):
    def said(share, **changes):
        facts = msgspec.structs.replace(comparison.dataset, missed_share=share)
        return html_page(msgspec.structs.replace(comparison, dataset=facts, **changes))

    told = "12.3 % of the answers were met before. Seen items are filtered, so each of them is a certain miss"
    assert told in said(0.123)
    assert all("certain miss" not in said(share) for share in (None, 0.0))


def test_the_half_interval_says_that_it_is_without_seeds(comparison):
    assert "how seeds scatter is not in it" in rendered(comparison).replace("\n", " ")
