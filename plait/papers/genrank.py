"""Studies of the GenRank paper (Towards Large-scale Generative Ranking): its table 1 and the findings of section 3.

The baseline is HSTU as a ranker: items and actions as tokens, relative attention bias, a loss at candidates alone.
Differences are those of AUC, as the paper's. What it calls speed-up, time saved is here: a model that is
78.7 % faster takes 44.0 % less time.
"""

from dataclasses import replace
from typing import Literal

from plait.compare.variants import Variant
from plait.data import Temporal
from plait.data.simulator import Response, World
from plait.data.simulator.world import CLICK, LIKE
from plait.evaluation.run_files import RunSettings
from plait.evaluation.settings import Protocol
from plait.layouts import CATALOGUE
from plait.models.generative import ModelSettings
from plait.models.late import LateSettings
from plait.models.questions import Exposure
from plait.nn.ranker_settings import RankerSettings
from plait.nn.towers import TowerConfig
from plait.papers.ablation import GAIN, Ablation, AblationColumn, Arm, Change, Gain
from plait.papers.attnmvp import RANKER
from plait.papers.claims import Claim
from plait.papers.derived_logs import DescribedLog, Thresholded
from plait.papers.logs import Public, Simulated
from plait.papers.schedule import epochs, optim
from plait.papers.speed import Race, Racer, saving
from plait.papers.study import Setting, Study
from plait.rankers.settings import RankerName, run_settings
from plait.schema import Action, Binary, Category, Feature, Vector

PAPER = "GenRank paper"
BASELINE, LAST = "HSTU", "HSTU, last request"
GENRANK = str(CATALOGUE["genrank"].layout)
ON_PAR = (
    0.005  # share of the AUC; the paper's own bar, 0.0010, takes far more users than a few thousand to tell
)

SHARE = Response(action=Action("share", Binary()), rate=0.1)
FEED = Simulated(
    name="feed",
    world=World(num_users=20_000, num_events=30, request_events=4.0, responses=(CLICK, LIKE, SHARE)),
)
LONG_FEED = Simulated(
    name="long-feed",
    world=World(num_users=256, num_events=240, request_events=4.0, responses=(CLICK, LIKE, SHARE)),
)
BASKETS = Thresholded(
    name="complete-journey-several",
    of=Public("complete-journey"),
    action="several",
    number="quantity",
    least=2,
    split=Temporal(validation=0.02, test=0.02),
)

REQUESTS = 8  # candidates of so many: nearly all of a window of the feed
OF_FEED = epochs(3, max_events=30, supervise="candidates", candidate_requests=REQUESTS)
OF_BASKETS = epochs(6, max_events=100, window="random", supervise="candidates", candidate_requests=REQUESTS)
OF_LONG_FEED = epochs(1, max_events=240, supervise="candidates")

TASKS = ("click", "like", "share")
AUC = {
    "auc": AblationColumn(tuple(f"auc:{task}" for task in TASKS), "AUC of the main tasks"),
    **{f"auc:{task}": AblationColumn((f"auc:{task}",)) for task in TASKS},
}
SEVERAL = {"auc:several": AblationColumn(("auc:several",), "AUC")}


def model(positions: Literal["rab", "genrank"] = "rab", **choices: object) -> ModelSettings:
    """HSTU as the paper arranges it (section 4.2, figure 3): history events have positions of their own and see each
    other causally, candidates of one request share a position and do not see each other."""
    trunk = replace(ModelSettings().trunk, kind="hstu", positions=positions)
    return ModelSettings(trunk=trunk, exposure=Exposure(same_request="causal"), **choices)  # type: ignore[arg-type]


def variant(
    name: str,
    protocol: Protocol,
    settings: ModelSettings = model(),
    layout: str = RANKER,
    users_per_step: int = 16,
) -> Variant:
    its = RunSettings(
        layout=layout, model=settings, optim=optim(users_per_step=users_per_step), protocol=protocol
    )
    return Variant(name, its)


def beats(first: str, second: str, source: str = "", metric: str = "auc") -> Claim:
    return Claim(first=first, second=second, metric=metric, source=source)


def on_par(first: str, second: str, source: str = "", metric: str = "auc") -> Claim:
    return Claim(first=first, second=second, metric=metric, margin=ON_PAR, source=source)


ORGANISED, TIMED, ALL = "+ action-oriented", "+ position and time biases", "+ all (GenRank)"
TABLE_1: dict[str, tuple[float, float]] = {  # AUC difference, speed-up in %
    ORGANISED: (-0.0003, 78.7),
    TIMED: (0.0009, 25.0),
    ALL: (0.0006, 94.8),
}


def table_1_variants(protocol: Protocol, users_per_step: int = 16) -> tuple[Variant, ...]:
    hstu, linear = model("rab"), model("genrank")
    return (
        variant(BASELINE, protocol, hstu, RANKER, users_per_step),
        variant(ORGANISED, protocol, hstu, GENRANK, users_per_step),
        variant(TIMED, protocol, linear, RANKER, users_per_step),
        variant(ALL, protocol, linear, GENRANK, users_per_step),
    )


def table_1_trial(
    name: str, log: Simulated | Thresholded, protocol: Protocol, columns: dict[str, AblationColumn]
) -> Ablation:
    metric, without = next(iter(columns)), (None,) * (len(columns) - 1)
    return Ablation(
        name=name,
        arms=(Arm(log, table_1_variants(protocol)),),
        columns=columns,
        changes=tuple(
            Change(variant=name, baseline=BASELINE, paper=(auc, *without))
            for name, (auc, _) in TABLE_1.items()
        ),
        claims=(
            *(on_par(name, BASELINE, metric=metric) for name in TABLE_1),
            beats(ALL, BASELINE, "section 4: a slight improvement", metric),
        ),
    )


def table_1_race() -> Race:
    baseline, *faster = table_1_variants(OF_LONG_FEED, users_per_step=8)
    savings = {name: saving(100.0, 100.0 + speed_up) for name, (_, speed_up) in TABLE_1.items()}
    return Race(
        name="time",
        log=LONG_FEED,
        racers=tuple(
            Racer(name=each.name, cheap=each, dear=baseline, paper=savings[each.name]) for each in faster
        ),
    )


def paper_settings(logs: str) -> tuple[Setting, ...]:
    return (
        Setting("log", "Xiaohongshu's Explore Feed, 15 days, hundreds of billions of exposures", logs),
        Setting(
            "candidates in training",
            "at a sequence's end; passes not stated",
            f"the last {REQUESTS} requests of a window, each as asked; every epoch again",
        ),
        Setting(
            "within a request",
            "history causal, candidates apart",
            "history causal, candidates apart (same_request = causal)",
        ),
        Setting(
            "test", "not described", "feed: each user's last event; baskets: all of the last 2 % (8 days)"
        ),
        Setting(
            "trunk", "HSTU, 3 blocks, 8 heads, d = 768", "HSTU (research block), 2 blocks, 2 heads, d = 64"
        ),
        Setting(
            "window",
            "480 positions",
            "the last 30 events of the feed; 100 of baskets, anywhere; 240 where time is taken",
        ),
        Setting(
            "training",
            "mixed precision, 15 days of logs",
            f"rate 0.001 along a cosine, 16 users a step; {OF_FEED.max_epochs} epochs of the feed, "
            f"{OF_BASKETS.max_epochs} of baskets",
        ),
        Setting(
            "on par",
            "AUC differences below 0.0010",
            f"below {100 * ON_PAR:g} % of the AUC: the users are few",
        ),
        Setting("seeds", "not stated", "2"),
    )


table_1 = Study(
    name="genrank-table-1",
    paper=f"{PAPER}, table 1",
    question="Do action-oriented tokens and linear position and time embeddings rank as well as HSTU, and faster?",
    setting=(
        *paper_settings("a simulated feed of 20,000 users; baskets of Complete Journey"),
        Setting(
            "task", "several, binary", "feed: click, like, share; baskets: bought two or more of the product"
        ),
        Setting("speed-up", "+78.7 %, +25.0 %, +94.8 %", "as time saved: 44.0 %, 20.0 %, 48.7 %"),
    ),
    parts=(
        table_1_trial("feed", FEED, OF_FEED, AUC),
        table_1_trial("baskets", BASKETS, OF_BASKETS, SEVERAL),
        table_1_race(),
    ),
)

HISTORY_LOSS, FULL, POINT_WISE = "loss on history", "fully visible history", "point-wise order"
PLE, WINDOWS, PPNET = "PLE", "window statistics", "window statistics + PPNet"
CONTENT, CATEGORY, SIMILAR = "content embeddings", "categories", "categories + similar history"
STATISTICS, TOWER = LateSettings(windows=(5, 20)), ModelSettings().tower
DIN, SEARCHING = "DIN", "SIM, hard search by categories"
# Share of a gain: the paper tells comparable improvements from those that are over twice as large.
COMPARABLE = 0.5

LOST = {HISTORY_LOSS: -0.0100, FULL: -0.0015}
ONE_CAUSE = (
    "The paper explains what the loss on history costs by sparse features that overfit when a stream trains the same "
    "events again and again. Here every epoch trains the same events under either loss, and supervises about as many.",
    "The paper's -0.0100 and -0.0015 are bounds: it says that more is lost.",
    "A fully visible history can be asked about what comes after all of it only, so it is trained on the last request "
    f"alone, and held against {LAST}, which is, too.",
)


def mechanisms(
    name: str,
    log: Simulated | Thresholded,
    protocol: Protocol,
    columns: dict[str, AblationColumn],
    point_wise: bool,
    *notes: str,
) -> Ablation:
    metric, without = next(iter(columns)), (None,) * (len(columns) - 1)
    last = replace(protocol, candidate_requests=1)
    full = replace(model(), exposure=Exposure(same_request="causal", history="full"))
    more = (variant(POINT_WISE, replace(last, sample="event")),) if point_wise else ()
    return Ablation(
        name=name,
        arms=(
            Arm(
                log,
                (
                    variant(BASELINE, protocol),
                    variant(HISTORY_LOSS, replace(protocol, supervise="all")),
                    variant(LAST, last),
                    variant(FULL, last, full),
                    *more,
                ),
            ),
        ),
        columns=columns,
        changes=(
            Change(variant=HISTORY_LOSS, baseline=BASELINE, paper=(LOST[HISTORY_LOSS], *without)),
            Change(variant=FULL, baseline=LAST, paper=(LOST[FULL], *without)),
            *(Change(variant=its.name, baseline=LAST) for its in more),
        ),
        claims=(
            beats(BASELINE, HISTORY_LOSS, "section 3.1: more than 0.0100 lost", metric),
            beats(LAST, FULL, "section 3.1: more than 0.0015 lost", metric),
            *(on_par(its.name, LAST, "section 3.1: a slight decrease", metric) for its in more),
        ),
        notes=(*ONE_CAUSE, *notes),
    )


of_feed = mechanisms(
    "mechanisms",
    FEED,
    OF_FEED,
    AUC,
    True,
    "In point-wise order every candidate brings its history anew, so it is trained on the last request, too.",
)
of_baskets = mechanisms(
    "mechanisms-baskets",
    BASKETS,
    OF_BASKETS,
    SEVERAL,
    False,
    "Point-wise order is left out: baskets are large, and it encodes the history for each of their products.",
)


def hstu(name: str, tower: TowerConfig = TOWER, late: LateSettings = LateSettings()) -> Variant:
    return variant(name, OF_FEED, model(tower=tower, late=late))


def ranker(
    name: str,
    tower: TowerConfig = TowerConfig(kind="linear"),
    late: LateSettings = LateSettings(),
    kind: RankerName = "din",
    settings: RankerSettings = RankerSettings(),
) -> Variant:
    """A discriminative ranker, trained on the same candidates; before its heads stand layers of its own."""
    its = ModelSettings(tower=tower, late=late, ranker=settings)
    return Variant(name, run_settings(kind, its, optim(), OF_FEED))


def in_din(name: str) -> str:
    return f"{DIN}, {name}"


MODULES = {  # by what the paper calls them: with it, and without
    "content embeddings": (CONTENT, BASELINE),
    "PLE": (PLE, BASELINE),
    "window statistics": (WINDOWS, BASELINE),
    "PPNet": (PPNET, WINDOWS),
    "similar history": (SIMILAR, CATEGORY),
}
IN_DIN = {
    name: (in_din(new), DIN if old == BASELINE else in_din(old)) for name, (new, old) in MODULES.items()
}
COMPARED = "PLE", "PPNet", "similar history"  # across paradigms; content embeddings are another claim
SIMILAR_OF_CATEGORY = LateSettings(similar="category")
SEARCH = RankerSettings(search="hard", category="category")


def brings(module: str, paradigm: str) -> str:
    return f"{module} in {paradigm}"


def comparable(module: str) -> tuple[Claim, ...]:
    """What it brings in either paradigm is at least half of what it brings in the other."""
    one, other = brings(module, BASELINE), brings(module, DIN)
    return tuple(
        Claim(first=a, second=b, metric=GAIN, margin=COMPARABLE, source="section 3.2: comparable")
        for a, b in ((one, other), (other, one))
    )


TWICE = f"twice {brings('content embeddings', DIN)}"

modules = Ablation(
    name="modules",
    arms=(
        Arm(
            FEED,
            (
                hstu(BASELINE),
                hstu(PLE, replace(TOWER, kind="ple")),
                hstu(WINDOWS, late=STATISTICS),
                hstu(PPNET, replace(TOWER, gate="ppnet"), STATISTICS),
                ranker(DIN),
                ranker(in_din(PLE), TowerConfig(kind="ple")),
                ranker(in_din(WINDOWS), late=STATISTICS),
                ranker(in_din(PPNET), TowerConfig(kind="linear", gate="ppnet"), STATISTICS),
            ),
        ),
        Arm(
            DescribedLog(name="feed-content", of=FEED, feature=Feature("content", Vector())),
            (hstu(CONTENT), ranker(in_din(CONTENT))),
        ),
        Arm(
            DescribedLog(name="feed-categories", of=FEED, feature=Feature("category", Category())),
            (
                hstu(CATEGORY),
                hstu(SIMILAR, late=SIMILAR_OF_CATEGORY),
                ranker(in_din(CATEGORY)),
                ranker(in_din(SIMILAR), late=SIMILAR_OF_CATEGORY),
                ranker(SEARCHING, kind="sim", settings=SEARCH),
            ),
        ),
    ),
    columns=AUC,
    changes=(
        *(Change(variant=new, baseline=old) for new, old in (*MODULES.values(), *IN_DIN.values())),
        Change(variant=SEARCHING, baseline=in_din(CATEGORY)),
    ),
    gains={
        brings(name, paradigm): Gain(variant=its[name][0], baseline=its[name][1])
        for name in COMPARED
        for paradigm, its in ((BASELINE, MODULES), (DIN, IN_DIN))
    }
    | {
        brings("content embeddings", BASELINE): Gain(variant=CONTENT, baseline=BASELINE),
        TWICE: Gain(variant=in_din(CONTENT), baseline=DIN, times=2.0),
    },
    claims=(
        *(
            beats(*its[name], "section 3.2")
            for its in (MODULES, IN_DIN)
            for name in (*COMPARED, "content embeddings")
        ),
        beats(WINDOWS, BASELINE, "section 3.2: window statistics stay effective"),
        beats(SEARCHING, in_din(CATEGORY), "section 3.2: SIM"),
        Claim(
            first=brings("content embeddings", BASELINE),
            second=TWICE,
            metric=GAIN,
            source="section 3.2: over twice the improvement",
        ),
        *(claim for module in COMPARED for claim in comparable(module)),
    ),
    notes=(
        f"A gain is the mean AUC with a module minus that without it. The paper's discriminative ranker is not "
        f"described: here it is DIN, which reads a candidate beside a history. Comparable means that each brings at "
        f"least {100 * COMPARABLE:g} % of what the other does.",
        "Content embeddings are the item's category as a frozen one-hot vector. Similar history is SIM's hard search: "
        "statistics of the window's events of the candidate's category, against a model that knows categories, too; "
        "SIM itself stands beside it. PPNet gates by the window statistics, so it is held against a model that has "
        "them.",
    ),
)

section_3 = Study(
    name="genrank-section-3",
    paper=f"{PAPER}, section 3",
    question="What makes a generative ranker effective: its mechanisms, the order of samples, known modules?",
    setting=paper_settings("a simulated feed of 20,000 users; mechanisms: baskets of Complete Journey, too"),
    parts=(of_feed, of_baskets, modules),
)

STUDIES = (table_1, section_3)
