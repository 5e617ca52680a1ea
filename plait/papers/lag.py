"""Whether LAC's last layer finds an item's action where it stands: one token after the item.

Shape letters: B sequences, R rows, N heads, L tokens of a sequence, H head width, S seeds, P places of the item,
V different actions.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from plait.compare.notes import origins_of
from plait.compare.variants import Variant
from plait.data import Dataset
from plait.evaluation.protocol_line import protocol_line
from plait.evaluation.run_files import MODEL
from plait.files import write_whole
from plait.layouts.packing import pad
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import training_inputs
from plait.models.saving import load_model
from plait.papers.claims import ClaimVerdict, Repeated, judge_repeated
from plait.papers.logs import StudyLog
from plait.papers.study import Figure, Finding, Place, shrunk
from plait.schema import UNKNOWN_ITEM, EventBatch
from plait.training.arithmetic import made_definite, shared_arithmetic
from plait.training.run import run_training

LENGTH, LAST = 6, 5  # of the dummy sequence; its query that is read, which holds the item again
PLACES = (1, 2, 3)  # where the item stands in turn; the paper's is the first
OFFSETS = {0: "an item", 1: "the token after an item, which shows its action,"}  # from the item's place
SHADES = " ░▒▓█"
CELL, MARGIN = 54, 70  # of the drawing, in pixels


@dataclass(frozen=True, kw_only=True)
class LagByOne:
    """The attention map of the paper's dummy sequence [unk, item, unk, unk, unk, item], last layer, mean over heads.

    The paper shows one item; here the map is the mean over the most frequent items, each with several of the log's
    actions, from the least to the greatest. Those of unknown items are the log's mean. A map of one sequence cannot
    tell what a query looks for from where it always looks, so the item stands in other places, too, and its
    attention is held against that of the same position when the item stands elsewhere.
    """

    name: str
    log: StudyLog
    variant: Variant
    num_seeds: int
    num_items: int = 100
    num_actions: int = 5

    @property
    def logs(self) -> tuple[StudyLog, ...]:
        return (self.log,)

    def quick(self) -> "LagByOne":
        variant = Variant(self.variant.name, shrunk(self.variant.settings))
        return replace(self, log=self.log.quick(), variant=variant, num_seeds=1, num_items=7)

    def run(self, study: str, place: Place) -> Finding:
        dataset, folder = self.log.open(place.logs, place.data), place.folder_of(study, self.name)
        maps, wall_s, runs = [], 0.0, []
        of = self.variant.settings
        arithmetic = shared_arithmetic(folder, [of], place.device)
        for seed in range(self.num_seeds):
            where = folder / "runs" / f"{self.variant.name}-seed{seed}"
            settings = self.variant.seeded(seed)
            place.report(f"{self.variant.name}, seed {seed}")
            result = run_training(
                dataset,
                settings,
                where,
                lambda line: place.report(f"  {line}"),
                place.device,
                place.watch,
                arithmetic,
            )
            model = load_model(where / MODEL)
            batches = [dummies(dataset, self.num_items, self.num_actions, at) for at in PLACES]
            maps.append(np.stack([attention_map(model, batch) for batch in batches]))
            wall_s += result.wall_s
            runs.append((self.variant.name, seed, result.provenance))
        map_SPLL = np.stack(maps)
        map_SLL = map_SPLL[:, 0]  # the paper's
        drawing = folder / "attention.svg"
        write_whole(drawing, lambda aside: aside.write_text(svg(map_SLL.mean(0)), encoding="utf-8"))
        return Finding(
            part=self.name,
            data=f"{dataset.manifest.name}: {dataset.num_users:,} users, {dataset.num_items:,} items",
            protocol=protocol_line(
                dataset,
                of.model,
                made_definite(of.optim, arithmetic),
                of.protocol,
                range(self.num_seeds),
                self.variant.layout,
            ),
            metrics={f"key {key}": "" for key in range(LENGTH)},
            figures=tuple(_figures(map_SLL)),
            verdicts=verdicts_of_maps(map_SPLL),
            notes=(
                f"Attention of the last layer with the item at {PLACES[0]} and {LAST}, mean over heads, items, actions "
                "and seeds; rows are queries. Low and high are the range over seeds. Verdicts are of the last query, "
                f"with the item at {', '.join(map(str, PLACES))} in turn.",
            ),
            drawing=tuple(shaded(map_SLL.mean(0))),
            page=str(drawing.relative_to(place.out)),
            wall_s=wall_s,
            origins=origins_of(runs),
        )


def dummies(dataset: Dataset, num_items: int, num_actions: int, place: int = PLACES[0]) -> EventBatch:
    """The dummy sequence with each of the most frequent items at `place` and last, and for each several actions."""
    action_EA = dataset.train_batch(dataset.train_users(), LENGTH, 0).action_EA
    different_VA = np.unique(action_EA[~np.isnan(action_EA).any(axis=1)], axis=0)  # sorted
    action_VA = different_VA[np.linspace(0, len(different_VA) - 1, num_actions).round().astype(int)]
    item_V = 1 + np.argsort(-dataset.train_item_counts()[1:], kind="stable")[:num_items]
    known = [place, LAST]
    num_sequences = len(item_V) * num_actions
    item_BL = np.full((num_sequences, LENGTH), UNKNOWN_ITEM)
    item_BL[:, known] = np.repeat(item_V, num_actions)[:, None]
    action_BLA = np.empty((num_sequences, LENGTH, action_EA.shape[1]), dtype=np.float32)
    action_BLA[:] = np.nanmean(action_EA, axis=0)
    action_BLA[:, known] = np.tile(action_VA, (len(item_V), 1))[:, None]
    return EventBatch(
        user_U=np.arange(num_sequences),
        start_U1=np.arange(0, item_BL.size + 1, LENGTH),
        lead_U=np.zeros(num_sequences, dtype=np.int64),
        item_E=item_BL.reshape(-1),
        action_EA=action_BLA.reshape(item_BL.size, -1),
        time_s_E=np.tile(np.arange(LENGTH), num_sequences),
        request_E=np.tile(np.arange(LENGTH), num_sequences),
    )


@torch.no_grad()
def attention_map(model: GenerativeRecommender, batch: EventBatch) -> Float64[np.ndarray, "L L"]:
    """Which key (column) each query (row) of the last layer attends to; mean over sequences and heads.

    Asks the block for its queries and keys, because the kernels that it attends with keep no weights.
    """
    inputs = training_inputs(model.plan, batch, pad)
    seen: list[tuple[Any, ...]] = []
    block: Any = model.trunk.blocks[-1]
    hook = block.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    try:
        model(inputs)
    finally:
        hook.remove()
    x_RLD, _, where = seen[0]
    q_RNLH, k_RNLH, _ = block.project(x_RLD, where.angles)
    score_RNLL = q_RNLH @ k_RNLH.transpose(-1, -2) * q_RNLH.shape[-1] ** -0.5
    hidden_RNLL = ~where.segments.visible_RQK[:, None]
    map_LL = score_RNLL.masked_fill(hidden_RNLL, -torch.inf).softmax(-1).mean((0, 1))
    return map_LL.double().numpy()


def verdicts_of_maps(map_SPLL: Float64[np.ndarray, "S P L L"]) -> tuple[ClaimVerdict, ...]:
    """Whether the last query looks at the item, and at the token after it."""
    return judge_repeated([looks_at(map_SPLL, offset) for offset in OFFSETS])


def looks_at(map_SPLL: Float64[np.ndarray, "S P L L"], offset: int) -> Repeated:
    """How much more the last query looks at what stands `offset` after the item than at the same position when the
    item is elsewhere; mean over places."""
    weight_SPL = map_SPLL[:, :, LAST]
    there_PS, elsewhere_PS = [], []
    for at, place in enumerate(PLACES):
        position = place + offset
        others = [n for n, other in enumerate(PLACES) if position - other not in OFFSETS]
        there_PS.append(weight_SPL[:, at, position])
        elsewhere_PS.append(weight_SPL[:, others, position].mean(1))
    there_S, elsewhere_S = np.mean(there_PS, axis=0), np.mean(elsewhere_PS, axis=0)
    by_seed = (f"{a:.3f} against {b:.3f}" for a, b in zip(there_S, elsewhere_S, strict=True))
    return Repeated(
        claim=f"the last query looks at {OFFSETS[offset]} more than at the same position without it",
        value_N=there_S - elsewhere_S,
        unit="seed",
        words=f"{', '.join(by_seed)}, by seed",
        source="section 5.1.1",
    )


def _figures(map_SLL: Float64[np.ndarray, "S L L"]) -> list[Figure]:
    return [
        Figure(
            variant=f"query {query}",
            metric=f"key {key}",
            value=float(map_SLL[:, query, key].mean()),
            low=float(map_SLL[:, query, key].min()),
            high=float(map_SLL[:, query, key].max()),
        )
        for query in range(LENGTH)
        for key in range(query + 1)
    ]


def position_names() -> list[str]:
    """
    >>> position_names()[:3]
    ['0 unk', '1 item', '2 unk']
    """
    return [f"{position} {'item' if position in (PLACES[0], LAST) else 'unk'}" for position in range(LENGTH)]


def shaded(map_LL: Float64[np.ndarray, "L L"]) -> list[str]:
    """The map in characters: the more of its query's attention a key gets, against the other keys, the darker.

    >>> shaded(np.eye(2))[1:]
    [' 0 unk  ██     ', '1 item      ██ ']
    """
    size = len(map_LL)
    lines = ["        " + " ".join(f"{key:^3}" for key in range(size))]
    for name, row_L in zip(position_names(), map_LL, strict=False):
        cells = (SHADES[round(weight * (len(SHADES) - 1))] * 2 for weight in (row_L / row_L.max()).tolist())
        lines.append(f"{name:>6}  " + "  ".join(cells) + " ")
    return lines


def svg(map_LL: Float64[np.ndarray, "L L"]) -> str:
    """The map as a drawing: keys from left to right, queries downwards."""
    size = MARGIN + CELL * len(map_LL)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" font-family="sans-serif" font-size="13">',
        "<title>Attention of the last layer: queries downwards, keys to the right</title>",
    ]
    for query, name in enumerate(position_names()):
        middle = MARGIN + (query + 0.5) * CELL
        parts.append(f'<text x="{MARGIN - 8}" y="{middle + 4}" text-anchor="end">{name}</text>')
        parts.append(f'<text x="{middle}" y="{MARGIN - 10}" text-anchor="middle">{name}</text>')
        for key in range(query + 1):
            weight, left, side = float(map_LL[query, key]), MARGIN + key * CELL, CELL - 2
            parts.append(
                f'<rect x="{left}" y="{middle - CELL / 2}" width="{side}" height="{side}" '
                f'fill="#0b6aa8" fill-opacity="{max(weight, 0.03):.3f}"/>'
            )
            parts.append(
                f'<text x="{left + side / 2}" y="{middle + 4}" text-anchor="middle" '
                f'fill="{"#fff" if weight > 0.5 else "#222"}">{weight:.2f}</text>'
            )
    return "\n".join([*parts, "</svg>\n"])
