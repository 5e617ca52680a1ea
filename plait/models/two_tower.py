"""A two-tower retriever: a vector of the user and one of the item, compared by their cosine.

It shares everything with layouts over a trunk but what stands between embeddings and the comparison: data, questions,
retrieval losses, the catalogue, states, training, evaluation. An encoded history is the vectors of its events.

Shape letters: M questions, N tokens, S tokens of encoded histories, D width, V items (row 0 the unknown one), W width
of an interest, X width of what a tower reads.
"""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from plait.layouts import Layout
from plait.layouts.facts import Field
from plait.models.generative import GenerativeRecommender, ModelConfig
from plait.models.inputs import Inputs, LaterInputs, Questions
from plait.models.told import ReadsInterests
from plait.nn.encoded import Encoded
from plait.nn.encoders import ItemVectors
from plait.nn.initialising import Linear, normal, unset
from plait.nn.interests import InterestFeatures, InterestLookup, InterestRows
from plait.nn.two_tower import mean_of_last
from plait.schema import UNKNOWN_ITEM, FeatureTable
from plait.wording import setting

RETRIEVED_LAYOUT = "item"  # of the catalogue: what towers take
UNTOLD_ADVICE = (
    "train it again without them (model.two_tower.interests.user = False, or a row ebr or ebr+item)"
)


class TwoTower(ReadsInterests, GenerativeRecommender):
    """Embedding-based retrieval (EBR): `UEnc(us, {o_q})` and `IEnc(i, e_i)` of the LUM paper, sections 3.1 and 4.3.

    The paper leaves the towers open ("such as MLPs"). Here the user's tower reads the mean of the last events, beside
    the user's features and interests; the item's reads the item, and its vector of the user model. Each is layers with
    GELU. The query of the paper's user tower is a condition here: the tower knows of it by interests alone.
    Interests are fixed: no gradient reaches them. In the place of a missing one stands a learned *none*.
    Vectors of items belong to the model, and are saved with it; those of users are looked up.

    Raises:
        ValueError: the layout or the settings are none for two towers.
    """

    item_interest_VW: Tensor
    has_item_interest_V: Tensor

    def __init__(self, config: ModelConfig) -> None:
        check_retrieves(config)
        super().__init__(config)
        settings, dim = config.settings.two_tower, config.settings.trunk.dim
        self.interest_features: InterestFeatures | None = None
        self.interests: InterestLookup | None = None
        num_in = dim * (1 if self.users is None else 2)
        if settings.interests.of_user is not None:
            self.interest_features = InterestFeatures(settings.interests.of_user)
            num_in += self.interest_features.num_out
        self.user_tower = _tower(num_in, settings.hidden, dim)
        width = settings.interests.width if settings.interests.of_item else 0
        self.no_item_interest_W = unset(width) if width else None
        if width:
            self.register_buffer("item_interest_VW", torch.zeros(config.num_items + 1, width))
            self.register_buffer("has_item_interest_V", torch.zeros(config.num_items + 1, dtype=torch.bool))
        self.item_tower = _tower(dim + width, settings.hidden, dim)

    @property
    def is_untold(self) -> bool:
        """Whether it reads interests of users, and has nowhere to look them up: it answers as if nobody had any."""
        return self.reads_interests and self.interests is None

    def init_weights(self, generator: torch.Generator) -> None:
        super().init_weights(generator)
        if self.no_item_interest_W is not None:
            nn.init.zeros_(self.no_item_interest_W)

    @torch.no_grad()
    def describe_items(self, interests: InterestLookup) -> None:
        """Takes over the vectors that a user model has of the catalogue's items."""
        if self.no_item_interest_W is None:
            return
        nobody_V = np.zeros(self.config.num_items + 1, dtype=np.int64)
        rows = interests.of(nobody_V, nobody_V, np.arange(self.config.num_items + 1))
        self.item_interest_VW.copy_(rows.item_MW)
        self.has_item_interest_V.copy_(rows.has_item_M)

    def compared(
        self, item_UD: Float[Tensor, "U D"], item_U: Int64[Tensor, " U"] | None = None
    ) -> Float[Tensor, "U D"]:
        """The item's tower, of the vectors of items."""
        if self.no_item_interest_W is None:
            return self.item_tower(item_UD)
        vector_UW, has_U = self.item_interest_VW, self.has_item_interest_V
        if item_U is not None:
            vector_UW, has_U = vector_UW[item_U], has_U[item_U]
        read_UW = torch.where(has_U[:, None], vector_UW, self.no_item_interest_W)
        return self.item_tower(torch.cat([item_UD, read_UW.to(item_UD.dtype)], dim=1))

    def with_items(self, table: FeatureTable) -> "GenerativeRecommender":
        """Raises ValueError where the item's tower reads vectors of a user model, which new items lack."""
        if self.no_item_interest_W is not None:
            raise ValueError(
                "the item's tower reads vectors of a user model, and added items have none; train it again with "
                f"theirs, or with {setting('model.two_tower.interests.item', False)}"
            )
        return super().with_items(table)

    def encoded(self, histories: Inputs) -> Encoded:
        """What is kept of histories: what each event shows, beside its user's features."""
        length_U = torch.bincount(histories.user_N, minlength=len(histories.user_code_UK)).cpu().numpy()
        start_U1 = np.concatenate([[0], np.cumsum(length_U)])
        shown_ND = self._shown(histories, self._facts(histories, None))
        place_N = torch.zeros_like(histories.user_N)
        return Encoded.whole(start_U1, place_N, place_N.clone(), (), shown_ND)

    def answered(self, later: LaterInputs, encoded: Encoded) -> list[Float[Tensor, "M D"]]:
        """As `forward`, of candidates that come after encoded histories."""
        assert later.reads_history, "two towers answer where the history ends"
        start_U = torch.from_numpy(encoded.start_U1[:-1]).to(encoded.hidden_SD.device)
        found, count_B, kept_SX = [], later.lists.count_B, _without_room(encoded)
        list_M = np.repeat(np.arange(len(count_B)), count_B)
        for asked in later.inputs.questions:
            user_M = torch.searchsorted(start_U, asked.cell_M, right=True) - 1
            found.append(self._read(later.inputs, asked, kept_SX, start_U[user_M], asked.cell_M, list_M))
        return found

    def followed(
        self, later: LaterInputs, encoded: Encoded, room_U: Int64[np.ndarray, " U"] | None = None
    ) -> Encoded:
        """Histories that go on with one event each."""
        more = self.encoded(later.inputs)
        return encoded.followed_by(more, encoded.length_U if room_U is None else room_U)

    def flops(self, inputs: Inputs) -> float:
        """FLOPs of a forward pass of the user's tower, and of the item's for the items that a step names."""
        num_asked = sum(len(asked.cell_M) for asked in inputs.questions)
        of_user, of_item = (
            2.0 * sum(p.numel() for p in tower.parameters() if p.ndim > 1)
            for tower in (self.user_tower, self.item_tower)
        )
        num_items = self.config.num_items
        if self.retrieval.kind != "full":
            drawn = self.retrieval.num_negatives if self.retrieval.kind == "sampled" else 0
            num_items = min(num_items, len(inputs.item_E.unique()) + drawn)
        return num_asked * of_user + num_items * of_item

    def _states(self, inputs: Inputs, items: ItemVectors | None) -> list[Float[Tensor, "M D"]]:
        shown_ND = self._shown(inputs, self._facts(inputs, items))
        token_C = torch.zeros(
            inputs.segments.segment_RL.numel(), dtype=torch.int64, device=inputs.cell_N.device
        )
        token_C[inputs.cell_N] = torch.arange(inputs.num_tokens, device=token_C.device)
        start_U = _starts(inputs)
        found = []
        for asked in inputs.questions:
            token_M = token_C[asked.cell_M]
            first_M = start_U[inputs.user_N[token_M]]
            found.append(
                self._read(inputs, asked, shown_ND, first_M, token_M, inputs.user_N[token_M].cpu().numpy())
            )
        return found

    def _shown(self, inputs: Inputs, facts: dict[Field, Tensor]) -> Float[Tensor, "N X"]:
        shown_ND = torch.stack([facts[field].index_select(0, at_N) for field, at_N in inputs.shown]).sum(0)
        if self.users is None:
            return shown_ND
        return torch.cat([shown_ND, self.users(inputs.user_code_UK).index_select(0, inputs.user_N)], dim=1)

    def _read(
        self,
        inputs: Inputs,
        asked: Questions,
        shown_ND: Tensor,
        first_M: Int64[Tensor, " M"],
        last_M: Int64[Tensor, " M"],
        user_M: Int64[np.ndarray, " M"],
    ) -> Float[Tensor, "M D"]:
        """The user's tower, of the events `first : last + 1`."""
        dim = self.config.settings.trunk.dim
        most = self.config.settings.two_tower.recent_events
        read = [mean_of_last(shown_ND[:, :dim], first_M, last_M, most)]
        if self.users is not None:
            read.append(shown_ND[:, dim:].index_select(0, last_M))
        if self.interest_features is not None:
            rows = self._interests(inputs, asked, user_M)
            read.append(self.interest_features(rows, len(last_M)).to(shown_ND.dtype))
        return self.user_tower(torch.cat(read, dim=1))

    def _interests(
        self, inputs: Inputs, asked: Questions, user_M: Int64[np.ndarray, " M"]
    ) -> InterestRows | None:
        """Of the events that are asked about; of their items nothing is looked up."""
        if self.interests is None:
            return None
        event_M = asked.label_M.cpu().numpy()
        no_item_M = np.full(len(event_M), UNKNOWN_ITEM, dtype=np.int64)
        found = self.interests.of(inputs.user_U[user_M], inputs.number_E[event_M], no_item_M)
        return found.to(inputs.item_E.device)


def check_retrieves(config: ModelConfig) -> None:
    """Raises ValueError where a layout asks for anything but the next item after one token an event, or events of a
    history see anything but what lies before them."""
    layout, exposure, kind = config.parsed_layout, config.settings.exposure, config.settings.two_tower.kind
    kind_set = setting("model.two_tower.kind", kind)
    if config.settings.ranker.is_on:
        raise ValueError(f"{kind_set} stands in place of a trunk, as a ranker does; choose one of them")
    if not _is_plain(layout):
        raise ValueError(
            f"{kind_set} retrieves after a history of one token an event, such as 'i[t] -> i[t+1]' has, and layout "
            f"'{layout}' asks otherwise; use {RETRIEVED_LAYOUT}, or leave the towers out"
        )
    if exposure.same_request == "blind" or exposure.needs_candidates:
        raise ValueError(f"{kind_set} takes the defaults of model.exposure; leave them out")
    if config.settings.interest_dim is not None:
        raise ValueError(f"{setting('model.interest_dim')} is for a trunk: towers project; leave it out")


def _is_plain(layout: Layout) -> bool:
    is_one = len(layout.tokens) == 1 and not (layout.candidate or layout.rides or layout.lag)
    return is_one and layout.predicts == {"i"} and "i" in layout.fields and "c" not in layout.fields


def _tower(num_in: int, hidden: tuple[int, ...], num_out: int) -> nn.Sequential:
    widths = (num_in, *hidden, num_out)
    layers: list[nn.Module] = []
    for one, next_one in pairwise(widths):
        layers += [Linear(one, next_one, normal((2 / one) ** 0.5)), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _starts(inputs: Inputs) -> Int64[Tensor, " U"]:
    """The first token of each user."""
    length_U = torch.bincount(inputs.user_N, minlength=len(inputs.user_code_UK))
    return length_U.cumsum(0) - length_U


def _without_room(encoded: Encoded) -> Float[Tensor, "S X"]:
    """What is kept, with zeros behind the histories, where anything may stand."""
    place_S = np.arange(int(encoded.start_U1[-1]))
    end_U = encoded.start_U1[:-1] + encoded.length_U
    is_filled_S = place_S < np.repeat(end_U, np.diff(encoded.start_U1))
    if is_filled_S.all():
        return encoded.hidden_SD
    is_filled = torch.from_numpy(is_filled_S).to(encoded.hidden_SD.device)
    return torch.where(is_filled[:, None], encoded.hidden_SD, 0.0)
