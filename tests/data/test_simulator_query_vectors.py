"""A world's queries as texts with vectors: near where they name one category, and the last wording in no event."""

import numpy as np
import pytest

from plait.data.simulator import World, simulate
from plait.data.simulator.simulating import QUERIES, WORDINGS
from plait.schema import FIRST_VALUE, MISSING_VALUE

WORLD = World(num_users=31, num_events=10, num_items=23, num_categories=3, queries=0.5)


def test_queries_of_one_category_lie_near_each_other(tmp_path):
    data = simulate(WORLD, tmp_path / "world", conditions=("query",), query_width=7)
    (query,) = data.conditions
    vector_KW, category_K = (
        data.condition_vectors()["query"],
        np.array([v.split()[1] for v in query.kind.values]),
    )
    assert len(vector_KW) == 3 * WORDINGS and (data.folder / QUERIES).is_file()
    alike_KK, near_KK = category_K[:, None] == category_K, vector_KW @ vector_KW.T
    assert near_KK[alike_KK].min() > near_KK[~alike_KK].max()
    code_E = data.histories(np.arange(data.num_users)).condition_EG[:, 0]
    asked = {query.kind.values[code - FIRST_VALUE] for code in set(code_E.tolist()) - {MISSING_VALUE}}
    assert len(asked) > 20, "few wordings occur"
    assert not any(text.endswith(f"wording {WORDINGS}") for text in asked)
    plain = simulate(WORLD, tmp_path / "plain", conditions=("query",))
    named_E = plain.histories(np.arange(plain.num_users)).condition_EG[:, 0]
    np.testing.assert_array_equal(named_E == MISSING_VALUE, code_E == MISSING_VALUE)
    again = simulate(WORLD, tmp_path / "again", conditions=("query",), query_width=7)
    assert again.manifest.content_hash == data.manifest.content_hash
    assert again.manifest.settings_hash == data.manifest.settings_hash


@pytest.mark.parametrize(("conditions", "width"), [(("scenario",), 7), (("query",), 2)])
def test_what_has_no_vectors_is_refused(tmp_path, conditions, width):
    with pytest.raises(ValueError, match=r"query.width"):
        simulate(WORLD, tmp_path / "world", conditions=conditions, query_width=width)
