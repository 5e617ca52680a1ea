"""An index of a model's items, by faiss: some candidates of each user instead of the whole catalogue. The model scores
them exactly, so an answer may lack items but never has a wrong score.

An item's bias is one more dimension of its vector, to which every query has a 1. What counts add is no inner product:
the items to which they add most are candidates, too.

Shape letters: U users, V items of the catalogue, I rows of the item table (row 0 the unknown item), D width, C
candidates of a user, K items returned.
"""

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, assert_never

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from plait import files
from plait.engine.filters import Filters
from plait.engine.one_pass import weights_version
from plait.engine.ranking import FIRST_ITEM, AddedScores, best, keys_of_items
from plait.engine.state_file import hash_of
from plait.models.generative import GenerativeRecommender
from plait.wording import setting

FORMAT_VERSION = 1
FOLDER = "index"  # in the model's, with hashes of its own: a model stays the version that it is when it gets an index
INDEX, ABOUT = f"{FOLDER}/items.faiss", f"{FOLDER}/about.json"
AGAIN = "build the index again"
EXTRA = "pip install 'plait[ann]'"

LINKS, BUILT_WITH = (
    32,
    200,
)  # of an item in the graph, and candidates for them: as faiss advises for a high recall
SEARCHED = 128  # candidates that a search of the graph holds, at least
FEWEST_IN_LIST = 39  # items that train a list: faiss asks for so many
SPARE = 100  # candidates beside those that are asked for
OF_COUNTS = 200  # items to which counts add most: as many as a table keeps of one item

Kind = Literal["hnsw", "ivf"]


class About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`about.json`."""

    format_version: int
    kind: Kind
    model: str  # the hash of its weights and configuration
    num_items: int
    num_lists: int | None = None  # of ivf
    num_probes: int | None = None  # of ivf: how many lists a search looks at
    recall: float | None = None  # the share of the exact best that is found; None: not measured
    recall_k: int | None = None
    recall_users: int | None = None
    seed: int | None = None  # which users


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """An index in memory."""

    about: About
    faiss_index: Any
    key_ID: Float32[Tensor, "I D"]  # by dense item, its bias last; row 0 is zero
    model: GenerativeRecommender
    version: tuple[int, ...]  # of its weights: a hash of all of them would take longer than an answer

    def is_of(self, model: GenerativeRecommender) -> bool:
        """Whether the model's items lie where the index has them."""
        is_known = self.model is model and self.version == weights_version(model)
        return is_known or self.about.model == hash_of(model)

    def of_grown(self, grown: GenerativeRecommender) -> "ItemIndex":
        """The same index, of its model with more keys of conditions (`with_condition_vectors`): items lie where they
        were."""
        return replace(self, model=grown, version=weights_version(grown))

    def candidates(self, query_UD: Float[Tensor, "U D"], breadth: int) -> Int64[np.ndarray, "U C"]:
        """Dense items whose inner product with each query is high; UNKNOWN_ITEM where fewer were found."""
        faiss, width = _faiss(), min(breadth, self.about.num_items)
        match self.about.kind:
            case "hnsw":
                how = faiss.SearchParametersHNSW(efSearch=max(SEARCHED, width))
            case "ivf":
                how = faiss.SearchParametersIVF(nprobe=self.about.num_probes)
            case _:
                assert_never(self.about.kind)
        _, place_UC = self.faiss_index.search(_with_one(query_UD).cpu().numpy(), width, params=how)
        return place_UC + FIRST_ITEM  # faiss says -1 where there is none


def index_of_items(model: GenerativeRecommender, kind: Kind, num_probes: int | None = None) -> ItemIndex:
    """An index of all items of a model in evaluation mode.

    Args:
        num_probes: of ivf, how many lists a search looks at; by default a sixteenth of them.

    Raises:
        ValueError: the layout predicts no items, or faiss is not installed. Or probes are given to hnsw, or are not
            from 1 to the number of lists.
    """
    if not model.retrieves:
        raise ValueError(
            f"layout '{model.layout}' predicts no items, so there is nothing to look up in an index"
        )
    faiss, key_ID = _faiss(), _keys(model)
    key_VD = key_ID[FIRST_ITEM:].numpy()
    about = About(format_version=FORMAT_VERSION, kind=kind, model=hash_of(model), num_items=len(key_VD))
    width = key_VD.shape[1]
    match kind:
        case "hnsw":
            if num_probes is not None:
                raise ValueError(
                    f"{setting('num_probes', num_probes)}: they are of kind = 'ivf'; leave them out"
                )
            index = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = BUILT_WITH
        case "ivf":
            num_lists = num_lists_of(len(key_VD))
            probes = _checked_probes(num_probes, num_lists)
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, num_lists, faiss.METRIC_INNER_PRODUCT)
            index.train(key_VD)
            about = msgspec.structs.replace(about, num_lists=num_lists, num_probes=probes)
        case _:
            assert_never(kind)
    index.add(key_VD)
    return ItemIndex(about, index, key_ID, model, weights_version(model))


def save_index(index: ItemIndex, folder: Path) -> None:
    """Writes an index into its model's folder, over another. What says whose it is comes last."""
    (folder / FOLDER).mkdir(exist_ok=True)
    (folder / ABOUT).unlink(missing_ok=True)
    content = _faiss().serialize_index(index.faiss_index).tobytes()
    files.write_listed(folder / INDEX, lambda aside: aside.write_bytes(content))
    about = msgspec.json.format(msgspec.json.encode(index.about))
    files.write_listed(folder / ABOUT, lambda aside: aside.write_bytes(about))


def load_index(model: GenerativeRecommender, folder: Path) -> ItemIndex:
    """The index in a model's folder.

    Raises:
        ValueError: there is none, or it is damaged, of another format version or of another model; or faiss is not
            installed.
    """
    for name in (ABOUT, INDEX):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}; build an index with `plait index`")
    faiss = _faiss()
    files.check_hashes(folder / FOLDER, AGAIN)
    try:
        about = msgspec.json.decode((folder / ABOUT).read_bytes(), type=About)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{folder / ABOUT} cannot be read ({error}); {AGAIN}") from None
    files.check_format_version(folder / ABOUT, about.format_version, FORMAT_VERSION, AGAIN)
    if about.model != hash_of(model):
        raise ValueError(f"{folder / INDEX} is of another model, whose items lie elsewhere; {AGAIN}")
    content = np.frombuffer((folder / INDEX).read_bytes(), dtype=np.uint8)
    try:
        index = faiss.deserialize_index(content)
    except RuntimeError as error:  # where the hashes are lost, so that nobody noticed before
        raise ValueError(f"{folder / INDEX} cannot be read ({error}); {AGAIN}") from None
    return ItemIndex(about, index, _keys(model), model, weights_version(model))


def best_by_index(
    index: ItemIndex,
    query_UD: Float[Tensor, "U D"],
    k: int,
    filters: Filters,
    beside: AddedScores | None,
) -> tuple[Int64[np.ndarray, "U K"], Float32[np.ndarray, "U K"]]:
    """The best of the candidates, with their exact scores; -inf where the filters leave a user fewer.

    Args:
        query_UD: of the same users, as the catalogue's keys are compared with.
    """
    breadth = min(index.about.num_items, k + SPARE + filters.most_seen)
    found_UC = index.candidates(query_UD, breadth)
    if beside is not None:
        most = beside.added_UI[:, FIRST_ITEM:].topk(min(OF_COUNTS, index.about.num_items)).indices
        found_UC = np.concatenate([found_UC, most.cpu().numpy() + FIRST_ITEM], axis=1)
    item_UC = torch.from_numpy(np.sort(found_UC, axis=1))
    score_UC = _exact(index, query_UD, item_UC, beside)
    score_UC[~filters.kept_of(item_UC)] = -torch.inf
    score_UC[:, 1:][item_UC[:, 1:] == item_UC[:, :-1]] = -torch.inf  # found twice
    score_UK, item_UK = best(score_UC, item_UC, k)
    return item_UK.numpy(), score_UK.numpy()


def recall_of(found_UK: Int64[np.ndarray, "U K"], exact_UK: Int64[np.ndarray, "U K"]) -> float:
    """The share of the exact best that was found.

    >>> recall_of(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [3, 9]]))
    0.75
    """
    return float((found_UK[:, :, None] == exact_UK[:, None]).any(1).mean())


def _exact(
    index: ItemIndex, query_UD: Tensor, item_UC: Int64[Tensor, "U C"], beside: AddedScores | None
) -> Float32[Tensor, "U C"]:
    score_UC = torch.einsum("ud,ucd->uc", _with_one(query_UD).cpu(), index.key_ID[item_UC])
    if beside is None:
        return score_UC
    return beside.model_weight * score_UC + beside.added_UI.cpu().gather(1, item_UC)


def _keys(model: GenerativeRecommender) -> Float32[Tensor, "I D"]:
    key_VD, bias_I = keys_of_items(model).detach().float().cpu(), model.bias_of_items()
    bias_V = key_VD.new_zeros(len(key_VD)) if bias_I is None else bias_I[FIRST_ITEM:].detach().float().cpu()
    key_VD = torch.cat([key_VD, bias_V[:, None]], dim=1)
    return torch.cat([key_VD.new_zeros(FIRST_ITEM, key_VD.shape[1]), key_VD]).contiguous()


def _with_one(query_UD: Float[Tensor, "U D"]) -> Float32[Tensor, "U d"]:
    return torch.cat([query_UD.float(), query_UD.new_ones(len(query_UD), 1).float()], dim=1).contiguous()


def num_lists_of(num_items: int) -> int:
    """Of ivf: about as many as faiss advises, each trained on enough items."""
    return max(1, min(int(4 * num_items**0.5), num_items // FEWEST_IN_LIST))


def usual_probes(num_lists: int) -> int:
    """How many lists a search looks at where nobody says."""
    return max(1, num_lists // 16)


def _checked_probes(num_probes: int | None, num_lists: int) -> int:
    if num_probes is None:
        return usual_probes(num_lists)
    if not 1 <= num_probes <= num_lists:
        raise ValueError(
            f"{setting('num_probes', num_probes)}: expected 1 to {num_lists}, the lists of the index"
        )
    return num_probes


def _faiss() -> Any:
    """Raises ValueError where it is not installed."""
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError:
        raise ValueError(f"an index of items needs faiss, which is not installed: {EXTRA}") from None
