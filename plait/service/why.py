"""Why a model answers so: the attention of the token that is asked, as the page shows it."""

from typing import Any

from plait.engine.attention import OWN
from plait.engine.state import State
from plait.recommender import Recommender
from plait.schema import UNKNOWN_ITEM
from plait.service.wire import WhyRequest


def why(recommender: Recommender, state: State, asked: WhyRequest) -> dict[str, Any]:
    """Weights by place and token, summed over heads, and which event each token is of.

    An event is numbered within its user's, those that were dropped before the history included. The event to come has
    none, and an item that the model does not know has no id.

    Raises:
        ValueError: as `Recommender.attention`.
    """
    item = None if asked.item is None else str(asked.item)
    found = recommender.attention(state, item, at=asked.at, context=asked.context)
    is_known_E = state.events.item_E != UNKNOWN_ITEM
    ids = recommender.vocabulary.ids_at(state.events.item_E[is_known_E]).to_list()
    id_of = dict(zip(state.events.number_E[is_known_E].tolist(), ids, strict=True))
    tokens = [
        {
            "event": None if event == OWN else event,
            "item": item if event == OWN else id_of.get(event),
            "shows": shown,
        }
        for event, shown in zip(found.event_N.tolist(), found.shown, strict=True)
    ]
    places = [
        {"name": name, "softmax": is_softmax}
        for name, is_softmax in zip(found.places, found.is_softmax, strict=True)
    ]
    return {
        "item": item,
        "heads": found.num_heads,
        "asked": found.asked,
        "places": places,
        "tokens": tokens,
        "weights": found.weight_PN,
    }
