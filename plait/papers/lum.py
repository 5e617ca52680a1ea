"""Studies of the LUM paper (Unlocking Scaling Law in Industrial Recommendation Systems): tables 2 to 6 and
figures 6 and 7.

The world's next item depends on scenario and query, and its clicks on the scenario. Both are conditions, so the user
model alone is told them, and a ranker learns of them by interests. A further part shows the scenario to both.
"""

from collections.abc import Iterator
from dataclasses import replace

import msgspec

from plait.compare.variants import Variant
from plait.data import Temporal
from plait.data.simulator import World
from plait.data.simulator.world import CLICK, LIKE
from plait.evaluation.run_files import RunSettings
from plait.layouts import CATALOGUE
from plait.models.generative import ModelSettings
from plait.models.late import LateSettings
from plait.nn.config import TrunkConfig
from plait.nn.losses import RetrievalLoss
from plait.nn.towers import TowerConfig
from plait.papers.claims import Claim
from plait.papers.logs import Simulated
from plait.papers.lum_cost import StepThreeCost
from plait.papers.lum_incremental import IncrementalRow, IncrementalTrial, UserModel
from plait.papers.lum_scaling import RECALL as RECALL_OF_ONE
from plait.papers.lum_scaling import Grown, ScalingLaw
from plait.papers.lum_speed import PackingAndQueries
from plait.papers.lum_trial import InterestTrial, told_claims
from plait.papers.schedule import epochs, optim
from plait.papers.study import Setting, Study, Trial

PAPER = "LUM paper"
RANKERS = ("din", "dien", "sim", "twin")
METRIC = "auc:click"
METRICS = {METRIC: "AUC, ML-1M", "gauc:click": "", "ne:click": ""}
WITHOUT = (None,) * (len(METRICS) - 1)

WORLD = World(num_users=3_000, num_events=40, queries=0.5, responses=(CLICK, LIKE))
CONDITIONS = ("scenario", "query")
EARLY = Simulated(
    name="asked-early",
    world=WORLD,
    split=Temporal(validation=0.05, test=0.55),
    conditions=CONDITIONS,
)
LATE_SPLIT = Temporal(validation=0.1, test=0.2)
LATE = replace(EARLY, name="asked-late", split=LATE_SPLIT)
SHOWN_EARLY = replace(EARLY, name="shown-early", shows_scenario=True, conditions=("query",))
SHOWN_LATE = replace(SHOWN_EARLY, name="shown-late", split=LATE_SPLIT)

WINDOW, STEP = 50, 6
OF_LUM = epochs(12, max_events=WINDOW, window_step=STEP, filter_seen=False)
OF_RANKERS = epochs(
    4, max_events=WINDOW, filter_seen=False, supervise="candidates", candidate_requests=WINDOW
)
RATE = 1e-3

LUM = RunSettings(
    layout=str(CATALOGUE["lum"].layout),
    model=ModelSettings(
        retrieval=RetrievalLoss(kind="info_nce", l2_norm=True, temperature=0.2), interest_dim=64
    ),
    optim=optim(RATE),
    protocol=OF_LUM,
)


def as_ranker(name: str, trunk: TrunkConfig) -> Variant:
    """An end-to-end model that scores candidates from what lay before their request."""
    model = ModelSettings(trunk=trunk, tower=TowerConfig(kind="linear"))
    layout = str(CATALOGUE["genrank"].layout)
    return Variant(name, RunSettings(layout=layout, model=model, optim=optim(RATE), protocol=OF_RANKERS))


END_TO_END = (
    as_ranker("SASRec", TrunkConfig()),
    as_ranker("HSTU", TrunkConfig(kind="hstu", positions="rab")),
)

BASE = {"din": 0.7455, "dien": 0.7527, "sim": 0.7579, "twin": 0.7539}
BASE_AND_LUM = {"din": 0.7472, "dien": 0.7604, "sim": 0.7615, "twin": 0.7675}
PAPERS = (
    {"SASRec": 0.7295, "HSTU": 0.7533} | BASE | {f"{name}+lum": auc for name, auc in BASE_AND_LUM.items()}
)

COUNTED_NONE = "No ranker has counts beside it here: what interests add to counts is another question."


def trial(
    name: str,
    rankers: tuple[str, ...],
    end_to_end: tuple[Variant, ...],
    *notes: str,
    logs: tuple[Simulated, Simulated] = (EARLY, LATE),
    claims: tuple[Claim, ...] = (),
) -> InterestTrial:
    rows = (*rankers, *(its.name for its in end_to_end))
    told = tuple(name.removesuffix("+lum") for name in rankers if name.endswith("+lum"))
    return InterestTrial(
        name=name,
        early=logs[0],
        late=logs[1],
        lum=LUM,
        rankers=rankers,
        layouts=end_to_end,
        model=ModelSettings(tower=TowerConfig(kind="linear")),
        optim=optim(RATE),
        protocol=OF_RANKERS,
        metrics=METRICS,
        paper={row: (auc, *WITHOUT) for row, auc in PAPERS.items() if row in rows},
        claims=(*told_claims(told, METRIC, "section 5.3, table 4"), *claims),
        notes=(*notes, COUNTED_NONE),
    )


def apart(ranker: str) -> tuple[Claim, ...]:
    """What the paper says of direct feature, and of interest matching on top of it."""
    feature, source = f"{ranker}+feature", "section 5.3, table 5"
    return (
        Claim(first=feature, second=ranker, metric=METRIC, source=source),
        Claim(first=f"{ranker}+lum", second=feature, metric=METRIC, source=source),
    )


def paper_settings(*more: Setting) -> tuple[Setting, ...]:
    return (
        Setting(
            "log",
            "ML-1M, ML-20M, Amazon Books",
            f"a simulated world of {WORLD.num_users:,} users, cut twice in time",
        ),
        Setting("conditions", "not said", "scenario and query: each event's own"),
        Setting(
            "training of the user model",
            "not said",
            f"{OF_LUM.max_epochs} epochs on the first two fifths of the events, rate {RATE:g} to 0",
        ),
        Setting(
            "training",
            "not said",
            f"{OF_RANKERS.max_epochs} epochs on the first seven tenths, rate {RATE:g} to 0; asked about the last "
            f"{OF_RANKERS.candidate_requests} requests, rankers about those after the user model's training alone",
        ),
        Setting(
            "interests", "not said", "of events after the user model's training alone; before, a learned none"
        ),
        Setting(
            "width and depth", "not said", "d = 64 with 2 blocks; rankers as `plait rank train` has them"
        ),
        Setting("window", "not said", f"{WINDOW} events"),
        Setting("seeds", "not said", "2 of each ranker, 1 of the user model"),
        *more,
    )


FOUR_RANKERS = trial(
    "simulated", tuple(row for ranker in RANKERS for row in (ranker, f"{ranker}+lum")), END_TO_END
)

table_2 = Study(
    name="lum-table-2",
    paper=f"{PAPER}, tables 2 and 4",
    question="Does a ranker in production gain by what a large user model says, and is it then better than end-to-end "
    "models?",
    setting=paper_settings(),
    parts=(
        FOUR_RANKERS,
        trial(
            "scenario shown",
            ("din", "din+lum"),
            (),
            "Here rankers see the scenario, with and without interests, and the query alone is a condition.",
            logs=(SHOWN_EARLY, SHOWN_LATE),
        ),
    ),
)

table_4 = Study(
    name="lum-table-4",
    paper=f"{PAPER}, tables 4 and 5",
    question="Of direct feature and interest matching, which brings what a ranker gains by interests?",
    setting=paper_settings(Setting("rankers", "DIN, DIEN, SIM, TWIN; the online model", "DIN and SIM")),
    parts=(
        trial(
            "switches",
            tuple(
                row
                for ranker in ("din", "sim")
                for row in (ranker, *(f"{ranker}+{of}" for of in ("feature", "match", "lum")))
            ),
            (),
            "The paper tells the two apart for its online model alone: AUC 0.7338, direct feature 0.7402, both 0.7514.",
            claims=(*apart("din"), *apart("sim")),
        ),
    ),
)

SIZES = {
    "d = 64, 2 blocks": TrunkConfig(),
    "d = 128, 4 blocks": TrunkConfig(dim=128, num_layers=4, num_heads=4),
    "d = 256, 6 blocks": TrunkConfig(dim=256, num_layers=6, num_heads=8),
}

figure_6 = Study(
    name="lum-figure-6",
    paper=f"{PAPER}, figure 6 (a, b)",
    question="Does what a ranker costs stay flat, however large the user model is whose interests it is told?",
    setting=(
        Setting(
            "log",
            "one day of an industrial log",
            f"a simulated world of {WORLD.num_users:,} users, cut twice in time",
        ),
        Setting("size of the user model", "0.5 to 14 billion parameters", "; ".join(SIZES)),
        Setting("training of the user model", "on the log", "one epoch: what it knows changes no cost"),
        Setting(
            "step 3",
            "the online model",
            f"DIN, interests of 64 numbers, {OF_RANKERS.max_epochs} epochs, one seed",
        ),
        Setting("end to end", "HSTU of each size", "HSTU as a ranker, of each size"),
        Setting("window", "4,096 events", f"{WINDOW} events"),
    ),
    parts=(StepThreeCost(name="cost", trial=FOUR_RANKERS, end_to_end=END_TO_END[1], sizes=SIZES),),
)

RECALL = {"recall@10": "R@10, industrial", "recall@50": "R@50, industrial", "ndcg@10": ""}
OF_RETRIEVAL = epochs(8, max_events=WINDOW, filter_seen=False)
INDUSTRIAL = {
    "SASRec": (0.2560, 0.4740, None),
    "HSTU": (0.2594, 0.4781, None),
    "ebr": (0.2482, 0.4651, None),
    "ebr+lum": (0.2727, 0.4915, None),
}


def as_retriever(name: str, trunk: TrunkConfig) -> Variant:
    """An end-to-end model that predicts the next item."""
    settings = RunSettings(
        layout=str(CATALOGUE["item"].layout),
        model=ModelSettings(trunk=trunk),
        optim=optim(RATE),
        protocol=OF_RETRIEVAL,
    )
    return Variant(name, settings)


RETRIEVERS = (
    as_retriever("SASRec", TrunkConfig()),
    as_retriever("HSTU", TrunkConfig(kind="hstu", positions="rab")),
)

RETRIEVAL = InterestTrial(
    name="retrieval",
    early=EARLY,
    late=LATE,
    lum=LUM,
    rankers=("ebr", "ebr+user", "ebr+item", "ebr+lum"),
    layouts=RETRIEVERS,
    model=ModelSettings(retrieval=RetrievalLoss(kind="full", l2_norm=True, temperature=0.2)),
    optim=optim(RATE),
    protocol=OF_RETRIEVAL,
    metrics=RECALL,
    paper=INDUSTRIAL,
    claims=tuple(
        Claim(first="ebr+lum", second=other, metric=metric, source="section 5.2, table 3")
        for metric in ("recall@10", "recall@50")
        for other in ("ebr", "SASRec", "HSTU")
    ),
)

table_3 = Study(
    name="lum-table-3",
    paper=f"{PAPER}, table 3, retrieval",
    question="Do two towers retrieve better by what a large user model says, and then better than end-to-end models?",
    setting=(
        Setting("two towers", "an online model in production", "EBR: the mean of 100 events, a layer of 128"),
        *(each for each in paper_settings() if each.what not in ("log", "training", "width and depth")),
        Setting(
            "log",
            "an industrial log of 4 billion events",
            f"a simulated world of {WORLD.num_users:,} users, cut twice in time",
        ),
        Setting(
            "training",
            "not said",
            f"{OF_RETRIEVAL.max_epochs} epochs on the first seven tenths, rate {RATE:g} to 0; two towers are asked "
            "about events after the user model's training alone",
        ),
        Setting(
            "losses",
            "not said",
            "rows differ by them: EBR's cosine / 0.2 under full softmax; SASRec and HSTU as `plait train` has them, "
            "the inner product / 1",
        ),
        Setting(
            "answers",
            "not said",
            "a user's test events are the answers to one list; its interests are "
            "those under the conditions of the first of them",
        ),
    ),
    parts=(RETRIEVAL,),
)

FEATURES = LateSettings(windows=(2, 5, 10, 20, 50))
WITHOUT_CONDITIONS = replace(LUM, layout=str(CATALOGUE["item"].layout))
ONE, NONE, BOTH = "scenario", "none", "scenario and query"  # what a user model is told
TABLE_5 = {
    "HSTU": 0.7334,
    "DLRM": 0.7338,
    "LUM": 0.7514,
    "DLRM (feature)": 0.7541,
    "DLRM (param)": 0.7525,
    "DLRM (param+feature)": 0.7777,
    "LUM (feature)": 0.7659,
    "LUM (param)": 0.7620,
    "LUM (param+feature)": 0.7794,
    "LUM (w/o condition token)": 0.7416,
    "LUM (multi-conditions)": 0.7545,
}
INHERITED = {"": (False, False), " (feature)": (True, False), " (param)": (False, True)} | {
    " (param+feature)": (True, True)
}


def incremental_rows() -> tuple[IncrementalRow, ...]:
    """DLRM and LUM with what each inherits, then LUM under other conditions."""
    told = {"DLRM": "", "LUM": ONE}
    rows = [
        IncrementalRow(
            name=f"{name}{what}", has_features=features, has_parameters=parameters, user_model=user_model
        )
        for name, user_model in told.items()
        for what, (features, parameters) in INHERITED.items()
    ]
    return (
        *rows,
        IncrementalRow(name="LUM (w/o condition token)", user_model=NONE),
        IncrementalRow(name="LUM (multi-conditions)", user_model=BOTH),
    )


def table_5_claims() -> Iterator[Claim]:
    """What section 5.3 says, and the orders of table 5."""
    inherited = [what for what in INHERITED if what]
    orders = [
        *((f"LUM{what}", "LUM") for what in inherited),
        *((f"DLRM{what}", "DLRM") for what in inherited),
        *((f"LUM{what}", f"DLRM{what}") for what in INHERITED),
        ("DLRM (param+feature)", "HSTU"),
        ("LUM", "LUM (w/o condition token)"),
        ("LUM (multi-conditions)", "LUM"),
    ]
    for first, second in orders:
        yield Claim(first=first, second=second, metric=METRIC, source="section 5.3, table 5")


INCREMENTAL = IncrementalTrial(
    name="incremental",
    trial=InterestTrial(
        name="incremental",
        early=EARLY,
        late=LATE,
        lum=LUM,
        rankers=("din", "din+lum"),
        layouts=END_TO_END[1:],
        model=ModelSettings(tower=TowerConfig(kind="linear")),
        optim=optim(RATE),
        protocol=OF_RANKERS,
        metrics={METRIC: "AUC, industrial", "gauc:click": "", "ne:click": ""},
        paper={row: (auc, *WITHOUT) for row, auc in TABLE_5.items()},
        claims=tuple(table_5_claims()),
        notes=(
            "The text says that HSTU surpasses DLRM from scratch; the table has 0.7334 and 0.7338, so no claim is made "
            "of it.",
            "The table's last two rows, direct feature and interest matching, are in lum-table-4.",
            COUNTED_NONE,
        ),
    ),
    ranker="din",
    features=FEATURES,
    user_models={
        ONE: UserModel(settings=LUM, conditions=("scenario",)),
        NONE: UserModel(settings=WITHOUT_CONDITIONS, conditions=()),
        BOTH: UserModel(settings=LUM, conditions=CONDITIONS),
    },
    rows=incremental_rows(),
)

table_5 = Study(
    name="lum-table-5",
    paper=f"{PAPER}, table 5",
    question="What does a ranker gain by the features and parameters of a deployed one, told interests or not, "
    "and what do condition tokens bring?",
    setting=(
        Setting(
            "log",
            "an industrial log of 4 billion events",
            f"a simulated world of {WORLD.num_users:,} users, cut twice in time",
        ),
        *(each for each in paper_settings() if each.what not in ("log", "conditions", "seeds")),
        Setting(
            "conditions",
            "scenario and search term in LUM (multi-conditions); else not said",
            "scenario and query in LUM (multi-conditions), else the scenario; w/o condition token: layout item under "
            "the same loss",
        ),
        Setting("deployed ranker", "the online model", "DIN, trained where the user models are"),
        Setting(
            "columns of the deployed ranker",
            "extensive feature engineering",
            "items and actions of a history; its features: how many of the last "
            f"{', '.join(map(str, FEATURES.windows))} events were clicked and liked",
        ),
        Setting(
            "from scratch",
            "random initialisation",
            "DLRM and LUM: without the features, on what lies between the cuts; HSTU: on all before the second cut",
        ),
        Setting(
            "param",
            "initialised from the online model",
            "every weight of the deployed ranker but those that read what a row has not; what reads interests begins "
            "at 0",
        ),
        Setting("seeds", "not said", "2 of each ranker, 1 of the user models and of the deployed ranker"),
    ),
    parts=(INCREMENTAL,),
)

LONG = Simulated(
    name="asked-long",
    world=msgspec.structs.replace(WORLD, num_users=256, num_events=520),
    conditions=CONDITIONS,
)
STEPS_1_AND_2 = PackingAndQueries(
    name="time",
    log=LONG,
    lum=replace(LUM, protocol=replace(OF_LUM, max_events=256), optim=optim(RATE, users_per_step=64)),
)

table_6 = Study(
    name="lum-table-6",
    paper=f"{PAPER}, table 6",
    question="What does packing save in step 1, and group query in step 2?",
    setting=(
        Setting(
            "log",
            "one day of an industrial log",
            f"a simulated world of {LONG.world.num_users:,} users: of each the first events, as many as a power law "
            f"with a mean of {STEPS_1_AND_2.mean_share:.0%} of the window says",
        ),
        Setting("window", "4,096 events", f"{STEPS_1_AND_2.lum.protocol.max_events} events"),
        Setting("width and depth", "0.3 billion parameters", "d = 64 with 2 blocks"),
        Setting(
            "step 1",
            "without packing: not said",
            f"training steps of {STEPS_1_AND_2.lum.optim.users_per_step} users; without packing a row for each user, "
            "padded to the window",
        ),
        Setting(
            "step 2",
            "queries of a user: not said",
            f"{' and '.join(map(str, STEPS_1_AND_2.num_queries))} queries of each user; without groups a sequence for "
            "each query, packed",
        ),
        Setting("time", "hours on 128 GPUs", "one thread of a processor, fp32, in rounds that take turns"),
    ),
    parts=(STEPS_1_AND_2,),
)

VARIED = Simulated(
    name="asked-varied",
    world=World(
        num_users=2_000,
        num_events=80,
        num_items=2_000,
        num_categories=24,
        num_types=20,
        choice=1.5,
        responses=(CLICK, LIKE),
    ),
    conditions=("scenario",),
)
LONGEST, OF_LONGEST = 64, 12  # events of a window, and epochs that it is trained for
LENGTHS = (4, 8, 16, 32, LONGEST)
GROWING = {
    "d = 16, 1 block": TrunkConfig(dim=16, num_layers=1, num_heads=2),
    "d = 32, 2 blocks": TrunkConfig(dim=32, num_layers=2, num_heads=2),
    "d = 64, 2 blocks": TrunkConfig(),
    "d = 128, 3 blocks": TrunkConfig(dim=128, num_layers=3, num_heads=4),
}


def user_model(name: str, trunk: TrunkConfig, num_events: int) -> Variant:
    """A user model of one size and window. Whatever the window, training reads about as many events, in as many steps,
    and looks at the validation as often: of a short one, more users are a step, and each is drawn from more often."""
    times = LONGEST // num_events
    protocol = epochs(
        OF_LONGEST * times,
        max_events=num_events,
        window="random",
        validate_every=times,
        filter_seen=False,
    )
    its = replace(
        LUM,
        model=replace(LUM.model, trunk=trunk),
        protocol=protocol,
        optim=optim(RATE, users_per_step=16 * times),
    )
    return Variant(name, its)


def growing(name: str, grown: Grown, variants: tuple[Variant, ...], paper: tuple[float, float]) -> ScalingLaw:
    trial = Trial(
        name=name,
        log=VARIED,
        variants=variants,
        metrics={RECALL_OF_ONE: "R@10, figure 7"},
        paper={},
        claims=(),
    )
    return ScalingLaw(trial=trial, grown=grown, paper=paper)


scaling = Study(
    name="lum-scaling",
    paper=f"{PAPER}, section 5.5, figure 7",
    question="Does what a user model recalls grow with the logarithm of its size, and of its window?",
    setting=(
        Setting(
            "log",
            "an industrial log",
            f"a simulated world of {VARIED.world.num_users:,} users, {VARIED.world.num_items:,} items of "
            f"{VARIED.world.num_categories} categories, and {VARIED.world.num_types} types of users",
        ),
        Setting("conditions", "not said", "the scenario"),
        Setting("sizes P", "up to 7 billion parameters", f"all weights of {'; '.join(GROWING)}"),
        Setting(
            "windows L",
            "256 to 8,192 events, at 0.3 billion parameters",
            f"{', '.join(map(str, LENGTHS))} events, at d = 64, 2 blocks",
        ),
        Setting("window of the sizes", "not said", f"{LONGEST} events"),
        Setting(
            "training",
            "not said",
            f"windows at random places, {OF_LONGEST} epochs of the longest; of shorter ones about as many events, and "
            f"as many steps; rate {RATE:g} to 0",
        ),
        Setting(
            "answers", "not said", "every user's last event, among all items: HR@10 of one answer is R@10"
        ),
        Setting("seeds", "not said", "2"),
    ),
    parts=(
        growing(
            "size",
            "P",
            tuple(user_model(size, trunk, LONGEST) for size, trunk in GROWING.items()),
            (0.0068, 0.1741),
        ),
        growing(
            "window",
            "L",
            tuple(user_model(f"{length} events", TrunkConfig(), length) for length in LENGTHS),
            (0.0147, 0.2326),
        ),
    ),
)

STUDIES: tuple[Study, ...] = (table_2, table_3, table_4, table_5, table_6, figure_6, scaling)
