"""Studies of the AttnMVP paper (Beyond Interleaving: Causal Attention Reformulations): its tables 1 and 2.

The baseline is the interleaved ranker: items and actions as tokens, and a loss of the actions alone. NE and losses
are told as the paper tells them, in % of the baseline's.
"""

from dataclasses import replace

import msgspec

from plait.compare.variants import Variant
from plait.data import Temporal
from plait.data.simulator import World
from plait.evaluation.run_files import RunSettings
from plait.evaluation.settings import Protocol
from plait.layouts import CATALOGUE
from plait.models.generative import ModelSettings
from plait.papers.ablation import Ablation, AblationColumn, Arm, Change
from plait.papers.claims import Claim
from plait.papers.derived_logs import Thresholded
from plait.papers.logs import ML_1M_LIKED, ML_100K, Simulated, StudyLog
from plait.papers.schedule import epochs, optim
from plait.papers.speed import Race, Racer
from plait.papers.study import Either, Setting, Study

PAPER = "AttnMVP paper"
BASELINE = "interleaved"
RANKER = "i[t] -> a[t]; a[t] -> ()"  # of the catalogue's `interleaved`, what a ranker needs
MARGINAL = (
    0.003  # less than half of what fusion gains (0.8 %): by so much may AttnMVP - LFA, or AttnDHN, differ
)

NUM_TASKS = 12
MAJOR = {"task_1": "LongDwell NE", "task_4": "Contribution NE", "task_6": "Like NE"}
TASKS = tuple(f"task_{number}" for number in range(1, NUM_TASKS + 1))
OTHERS = tuple(task for task in TASKS if task not in MAJOR)

TWELVE_TASKS = Simulated(
    name="twelve-tasks",
    world=msgspec.structs.replace(World.of_tasks(NUM_TASKS), num_users=5_000, num_events=100),
    split=Temporal(validation=0.05, test=0.1),
)
LONG = Simulated(
    name="twelve-tasks-long",
    world=msgspec.structs.replace(World.of_tasks(NUM_TASKS), num_users=128, num_events=256),
)
LIKED_100K = Thresholded(name="ml-100k-liked", of=ML_100K, action="liked", number="rating", least=4)

ONE_EPOCH = epochs(1, max_events=100)
FIVE_EPOCHS = epochs(5, max_events=100)
FILMS = epochs(6, max_events=50, window="random")
SHORT_FILMS = replace(FILMS, max_epochs=30, patience=30)
MODEL = ModelSettings(
    trunk=replace(ModelSettings().trunk, positions="rope", dropout=0.1),
    tower=replace(ModelSettings().tower, kind="mmoe"),
)
FUSED, AS_FUSED = "attn_lfa, item fused", "not the paper's: the item fused"
RATE = 1e-3

# In %: loss, the major tasks' NE. The paper prints no figures of the other nine.
FIGURES: dict[str, tuple[float, ...]] = {
    "attn_lfa": (-0.29, -0.06, -0.49, -0.47),
    "attn_mvp": (-0.80, -0.41, -1.1, -1.1),
    "attn_mvp_early": (-0.78, -0.40, -1.0, -1.0),
}
COLUMNS = {
    "log_loss": AblationColumn(tuple(f"log_loss:{task}" for task in TASKS), "Eval Loss"),
    **{f"ne:{task}": AblationColumn((f"ne:{task}",), paper) for task, paper in MAJOR.items()},
    "ne:others": AblationColumn(tuple(f"ne:{task}" for task in OTHERS), "the other nine: consistent"),
}
LIKED = {"ne:liked": AblationColumn(("ne:liked",), "Like NE")}


def variant(
    layout: str, protocol: Protocol, *, learning_rate: float = RATE, users_per_step: int = 8
) -> Variant:
    notation = RANKER if layout == BASELINE else str(CATALOGUE[layout].layout)
    its = RunSettings(
        layout=notation, model=MODEL, optim=optim(learning_rate, users_per_step), protocol=protocol
    )
    return Variant(layout, its)


def beats(
    first: str, second: str, source: str = "", metrics: tuple[str, ...] = tuple(COLUMNS)
) -> tuple[Claim, ...]:
    return tuple(Claim(first=first, second=second, metric=metric, source=source) for metric in metrics)


def of_baseline(layout: str) -> Change:
    figures = FIGURES.get(layout)
    return Change(variant=layout, baseline=BASELINE, paper=() if figures is None else (*figures, None))


def paper_settings(ours_log: str, seeds: str) -> tuple[Setting, ...]:
    return (
        Setting("log", "a social network's feed, proprietary", ours_log),
        Setting(
            "split", "temporal; a context and a candidate segment", "worlds: the same; films: leave-one-out"
        ),
        Setting("tasks", "12, binary", "worlds: 12, binary, rates 0.5 to 0.04; films: rating of 4 or 5"),
        Setting("window", "1,024 events", "the last 100 events of worlds; 50 of films, anywhere"),
        Setting("trunk", "12 layers, RoPE", "GPT-2 blocks, 2 layers, d = 64, RoPE"),
        Setting("tower", "MMoE; late features of counts", "MMoE of 4 experts; no late features"),
        Setting(
            "training",
            "one epoch",
            f"worlds: one epoch, and {FIVE_EPOCHS.max_epochs}; {FILMS.max_epochs} of ML-1M, "
            f"{SHORT_FILMS.max_epochs} of ML-100K; rate 0.001 along a cosine",
        ),
        Setting("training time", "end to end, on GPUs", "optimiser steps of an epoch, windows of 256 events"),
        Setting("seeds", "not stated", seeds),
    )


def fused(protocol: Protocol, users_per_step: int = 8) -> Variant:
    """AttnLFA whose heads see the item's state beside the pooled actions, as AttnMVP's do."""
    lfa = variant("attn_lfa", protocol, users_per_step=users_per_step).settings
    trunk = replace(MODEL.trunk, pool_fuses_item=True)
    return Variant(FUSED, replace(lfa, model=replace(MODEL, trunk=trunk)))


def films(name: str, log: StudyLog, protocol: Protocol, layouts: tuple[str, ...]) -> Ablation:
    """Layouts, or `FUSED`, against the baseline on films that were liked or not."""
    named = {FUSED: fused(protocol, users_per_step=16)}
    named |= {its: variant(its, protocol, users_per_step=16) for its in (BASELINE, *layouts) if its != FUSED}
    likes = {layout: (figures[-1],) for layout, figures in FIGURES.items()}
    return Ablation(
        name=name,
        arms=(Arm(log, tuple(named[its] for its in (BASELINE, *layouts))),),
        columns=LIKED,
        changes=tuple(Change(variant=its, baseline=BASELINE, paper=likes.get(its, ())) for its in layouts),
        claims=tuple(
            Claim(first=its, second=BASELINE, metric="ne:liked", source=AS_FUSED if its == FUSED else "")
            for its in layouts
        ),
    )


def both_films(*layouts: str) -> Either:
    """ML-1M where it is given, else ML-100K."""
    return Either(
        films("films-1m", ML_1M_LIKED, FILMS, layouts), films("films", LIKED_100K, SHORT_FILMS, layouts)
    )


def race(savings: dict[str, float]) -> Race:
    """The paper's savings, in % of the interleaved ranker's time; both with as many users in a step."""
    protocol = epochs(1, max_events=256)
    return Race(
        name="time",
        log=LONG,
        racers=tuple(
            Racer(name=layout, cheap=variant(layout, protocol), dear=variant(BASELINE, protocol), paper=paper)
            for layout, paper in savings.items()
        ),
    )


def table_1_part(name: str, protocol: Protocol, num_seeds: int) -> Ablation:
    two = tuple(variant(layout, protocol) for layout in (BASELINE, "attn_lfa"))
    others = beats("attn_lfa", BASELINE, "section 3: the other nine tasks", ("ne:others",))
    as_fused = beats(FUSED, BASELINE, AS_FUSED)
    return Ablation(
        name=name,
        arms=(Arm(TWELVE_TASKS, (*two, fused(protocol))),),
        columns=COLUMNS,
        changes=(of_baseline("attn_lfa"), of_baseline(FUSED)),
        claims=(*beats("attn_lfa", BASELINE, metrics=tuple(COLUMNS)[:-1]), *others, *as_fused),
        num_seeds=num_seeds,
        notes=(
            "AttnLFA's heads see the pooled actions alone, as the paper's section 3 says; the paper's see late "
            "features, too. With the item fused they see the item's state beside, as those of AttnMVP (section 4).",
        ),
    )


SEEDS = "3 for one epoch, else 2"

table_1 = Study(
    name="attnmvp-table-1",
    paper=f"{PAPER}, table 1",
    question="Does pooling actions late (AttnLFA) beat the interleaved ranker, in less time?",
    setting=paper_settings(
        "a simulated world of 5,000 users; liked films of ML-1M, where given (--data), else of ML-100K",
        SEEDS,
    ),
    parts=(
        table_1_part("one-epoch", ONE_EPOCH, num_seeds=3),
        table_1_part("five-epochs", FIVE_EPOCHS, num_seeds=2),
        both_films("attn_lfa", FUSED),
        race({"attn_lfa": 22.8}),
    ),
)


def table_2_part(name: str, protocol: Protocol, num_seeds: int) -> Ablation:
    """AttnLFA of table 1 stands beside, since section 4 compares with it; AttnDHN at half the rate (section 5)."""
    layouts = (BASELINE, "attn_lfa", "attn_mvp", "attn_mvp_early")
    halved = variant("attn_dhn", protocol, learning_rate=RATE / 2)
    loss = "log_loss"
    return Ablation(
        name=name,
        arms=(Arm(TWELVE_TASKS, (*(variant(layout, protocol) for layout in layouts), halved)),),
        columns=COLUMNS,
        changes=tuple(map(of_baseline, (*layouts[1:], "attn_dhn"))),
        claims=(
            *beats("attn_mvp", BASELINE),
            *beats("attn_mvp_early", BASELINE),
            *beats("attn_mvp", "attn_lfa", "section 4: larger gains than AttnLFA's", (loss,)),
            *beats("attn_mvp_early", "attn_lfa", "section 4: early fusion is what gains", (loss,)),
            Claim(
                first="attn_mvp_early",
                second="attn_mvp",
                metric=loss,
                margin=MARGINAL,
                source="section 4: marginal degradation",
            ),
            Claim(
                first="attn_mvp",
                second="attn_dhn",
                metric=loss,
                margin=MARGINAL,
                source="section 5: AttnDHN does not outperform it",
            ),
        ),
        num_seeds=num_seeds,
        notes=(
            "AttnDHN trains at half the learning rate, as in section 5; it has twice the updates of a layer. The "
            "paper prints no figures of it.",
        ),
    )


table_2 = Study(
    name="attnmvp-table-2",
    paper=f"{PAPER}, table 2 and section 5",
    question="Is it early fusion of actions (AttnMVP) that gains, rather than late pooling or a second stream?",
    setting=paper_settings(
        "a simulated world of 5,000 users; liked films of ML-1M, where given (--data), else of ML-100K",
        SEEDS,
    ),
    parts=(
        table_2_part("one-epoch", ONE_EPOCH, num_seeds=3),
        table_2_part("five-epochs", FIVE_EPOCHS, num_seeds=2),
        both_films("attn_mvp", "attn_mvp_early"),
        race({"attn_mvp": 12.3, "attn_mvp_early": 13.02}),
    ),
)

STUDIES = (table_1, table_2)
