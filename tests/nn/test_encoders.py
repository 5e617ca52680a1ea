import numpy as np
import pytest
import torch
from allocations import allocations
from tiny import assert_caught, started
from tolerance import SAME_SUM

from plait.nn.actions import scaled
from plait.nn.encoders import ActionEncoder, CodeEmbedding, FeatureEncoder, ItemEncoder, ItemEncoding
from plait.nn.initialising import VectorTable
from plait.schema import (
    FIRST_VALUE,
    MISSING_VALUE,
    PADDING,
    UNSEEN_VALUE,
    Action,
    Amount,
    Binary,
    Categorical,
    Categories,
    Category,
    Feature,
    FeatureTable,
    Number,
    Regression,
    Vector,
)

NAN = torch.nan
RATING, LIKE = Action("rating", Regression(1.0, 5.0)), Action("like", Binary())
SECONDS = Action("seconds", Amount(zero_inflated=True, log1p_scale=2.0))
DEVICE = Action("device", Categorical(("phone", "tablet", "tv")))
ALL = (RATING, LIKE, SECONDS, DEVICE)
D = 7


def vectors(actions, raw) -> torch.Tensor:
    torch.manual_seed(0)
    return started(ActionEncoder(actions, D))(torch.tensor(raw))


def dense_weights(encoder: ActionEncoder, raw_EA: torch.Tensor) -> torch.Tensor:
    """How much each row of the table adds to each event, written plainly: a tent over every knot."""
    weights, encoded = [], scaled(encoder.actions, raw_EA)
    for unit_E, action in zip(encoded.unbind(1), encoder.actions, strict=True):
        match action.kind:
            case Regression() | Amount():
                place_E, num_knots = (16 * unit_E).clamp(max=16), 17
            case Binary():
                place_E, num_knots = unit_E, 2
            case Categorical(values=values):
                place_E, num_knots = unit_E, len(values)
        tent_EK = (1 - (place_E[:, None] - torch.arange(num_knots)).abs()).clamp(min=0).nan_to_num(0.0)
        weights += [unit_E.isnan()[:, None].float(), tent_EK]
    return torch.cat(weights, dim=1)


def check_rows_equal_the_dense_product(actions=ALL) -> None:
    """Every value of every kind, missing and beyond training ones too; by value and by gradient."""
    torch.manual_seed(0)
    encoder, draw = started(ActionEncoder(actions, D)), np.random.default_rng(1)
    high_A = [len(a.kind.values) - 1 if isinstance(a.kind, Categorical) else 1 for a in actions]
    raw = torch.tensor(draw.integers(0, np.array(high_A) + 1, (300, len(actions)))).float()
    for column, action in enumerate(actions):
        if isinstance(action.kind, Regression | Amount):
            raw[:, column] = torch.tensor(
                draw.uniform(1, 5 if isinstance(action.kind, Regression) else 40, 300)
            )
    raw[torch.tensor(draw.random(raw.shape) < 0.2)] = NAN
    loss_of, (found, expected) = (
        torch.randn(300, D),
        (encoder(raw), dense_weights(encoder, raw) @ encoder.table.weight),
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    gradients = [torch.autograd.grad((x * loss_of).sum(), encoder.table.weight)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-5)
    assert (gradients[0].abs().amax(1) > 0).float().mean() > 0.3, "a comparison of zeros proves nothing"


def test_actions_equal_a_dense_product_with_a_weight_for_every_value():
    check_rows_equal_the_dense_product()
    check_rows_equal_the_dense_product((Action("shop", Categorical(tuple(map(str, range(500))))), SECONDS))


def test_that_comparison_notices_the_row_of_another_action(monkeypatch):
    right = ActionEncoder.rows
    monkeypatch.setattr(
        ActionEncoder, "rows", lambda self, raw: (right(self, raw)[0].roll(1, 1), right(self, raw)[1])
    )
    assert_caught(check_rows_equal_the_dense_product)


def test_an_action_of_many_values_reads_the_rows_of_its_value_alone():
    """No weight for every value: what an event takes does not grow with their number."""
    sizes = []
    for number in (100, 10_000):
        encoder = ActionEncoder((Action("shop", Categorical(tuple(map(str, range(number))))),), D)
        raw = torch.randint(0, number, (200, 1)).float()
        with torch.no_grad(), allocations() as found:
            encoder(raw)
        sizes.append(found.largest_bytes)
    assert sizes[0] == sizes[1]


def test_every_rating_and_every_category_has_a_vector_of_its_own():
    encoder = started(ActionEncoder(ALL, D))
    raw = torch.full((5 + 2 + 1 + 3, 4), NAN)
    raw[:5, 0] = torch.arange(1, 6)
    raw[5:7, 1] = torch.arange(2)
    raw[7, 2] = 0.0
    raw[8:, 3] = torch.arange(3)
    weights = dense_weights(encoder, raw)
    assert set(weights.unique().tolist()) == {0.0, 1.0}, "on a knot nothing is mixed"
    assert len(weights.unique(dim=0)) == len(raw)
    assert weights.sum(1).tolist() == [4.0] * len(raw), "one vector from every action, missing ones included"
    assert weights.shape[1] == (1 + 17) + (1 + 2) + (1 + 17) + (1 + 3)


def test_between_two_knots_lies_the_mean_of_their_vectors():
    below, between, above = vectors((RATING,), [[3.0], [3.125], [3.25]])  # knots are a quarter apart
    torch.testing.assert_close(between, (below + above) / 2)
    assert not torch.allclose(below, above)


def test_an_amount_beyond_training_has_the_last_knots_vector():
    largest, beyond, less = vectors((SECONDS,), [[torch.e**2 - 1], [1e5], [3.0]])
    torch.testing.assert_close(largest, beyond, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(largest, less)


def test_actions_add_up():
    torch.manual_seed(0)
    encoder = started(ActionEncoder(ALL, D))
    both, one, other, none = encoder(
        torch.tensor([[4.0, 1.0, NAN, NAN], [4.0, NAN, NAN, NAN], [NAN, 1.0, NAN, NAN], [NAN] * 4])
    )
    torch.testing.assert_close(both - none, (one - none) + (other - none))
    assert (one - none).norm() > 0


def test_a_missing_value_is_no_value():
    """Its vector differs from those of all values, zero included, and from another action's missing one."""
    encoder = started(ActionEncoder((LIKE, DEVICE), D))
    rows = torch.tensor([[NAN, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, NAN]])
    assert len(encoder(rows).unique(dim=0)) == 4
    used = torch.autograd.grad(encoder(rows[:1]).sum(), encoder.table.weight)[0].any(1)
    assert used.nonzero().flatten().tolist() == [0, 4], "the missing like, and the first device"


def test_without_actions_the_vector_is_zero():
    assert torch.equal(vectors((), torch.empty(3, 0).tolist()), torch.zeros(3, D))


def test_a_value_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="action 'device': event 0 of the batch holds 3, expected 0 to 2"):
        vectors((DEVICE,), [[3.0]])


def test_items_and_the_unknown_item_have_rows():
    encoder = started(ItemEncoder(5, D))
    assert encoder.table().shape == (6, D)
    assert torch.equal(encoder(torch.tensor([0, 5, 5])), encoder.table()[[0, 5, 5]])
    assert encoder.table() is encoder.embedding.weight, "the tied head must train the table"
    assert encoder.table().std().item() == pytest.approx(0.02, rel=0.5)


FEATURES = (
    Feature("brand", Category(("x", "y", "z"))),
    Feature("text", Vector(width=5)),
    Feature("genre", Categories("|", ("a", "b"), most=3)),
    Feature("year", Number(4, edges=(1.0, 2.0))),
)
NUM_ITEMS = 11
ENCODING = ItemEncoding(feature_dim=3, id_dropout=0.3)


def table_of(rows: int, seed: int = 0) -> FeatureTable:
    """Random codes of every kind, missing and unseen ones and lists of every length among them."""
    rng = np.random.default_rng(seed)
    brand_N1, year_N1 = rng.integers(0, 5, (rows, 1)), rng.integers(0, 5, (rows, 1))
    genre_N3 = rng.permuted(np.tile([UNSEEN_VALUE, 2, 3], (rows, 1)), axis=1)
    genre_N3[np.arange(3) >= rng.integers(1, 4, (rows, 1))] = PADDING
    code_NK = np.concatenate([brand_N1, genre_N3, year_N1], axis=1).astype(np.int32)
    vector_NW = rng.normal(size=(rows, 5)).astype(np.float32)
    code_NK[0], vector_NW[[0, 3]] = [MISSING_VALUE, MISSING_VALUE, PADDING, PADDING, MISSING_VALUE], 0
    return FeatureTable(
        FEATURES, code_NK, vector_NW / (np.linalg.norm(vector_NW, axis=1, keepdims=True) + 1e-9)
    )


TRAIN_EVENTS = np.array([0, *[3] * (NUM_ITEMS - 2), 0, 0])  # the last two items are cold


def described(encoding: ItemEncoding = ENCODING, features=FEATURES) -> ItemEncoder:
    torch.manual_seed(1)
    encoder = started(ItemEncoder(NUM_ITEMS, D, features, encoding)).eval()
    if features:
        encoder.describe(table_of(NUM_ITEMS + 1), TRAIN_EVENTS)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    return encoder


def plain_vector(encoder: ItemEncoder, table: FeatureTable, row: int) -> torch.Tensor:
    """Concatenate, then project (LUM paper, section 4.1.2), feature by feature."""
    parts, begin = [], 1
    if encoder.embedding is not None:
        parts.append(encoder.embedding.weight[row] if TRAIN_EVENTS[row] else encoder.new_item_D)
    code_K = iter(table.code_NK[row].tolist())
    for feature in (feature for feature in FEATURES if feature.num_columns):
        codes = [next(code_K) for _ in range(feature.num_columns)]
        rows = [encoder.codes.table.weight[begin + code] for code in codes if code != PADDING]
        parts.append(torch.stack(rows).mean(0))
        begin += feature.num_codes
    return encoder.project.weight @ torch.cat([*parts, torch.tensor(table.vector_NW[row])])


def check_items_equal_the_plain_ones(encoder: ItemEncoder) -> None:
    table = table_of(NUM_ITEMS + 1)
    plain = torch.stack([plain_vector(encoder, table, row) for row in range(NUM_ITEMS + 1)])
    assert len(plain.unique(dim=0)) == NUM_ITEMS + 1
    item_E = torch.tensor([4, 0, 9, 4, 11, 10, 1])
    for found, expected in (
        (encoder.table(), plain),
        (encoder(item_E), plain[item_E]),
        (encoder(item_E.repeat(3)), plain[item_E.repeat(3)]),  # more events than items
        (encoder.vectors().of(item_E), plain[item_E]),
        (encoder.vectors(item_E).of(item_E[2:4]), plain[item_E[2:4]]),
    ):
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("use_id", [True, False])
def test_items_with_features_equal_the_plain_ones(use_id):
    check_items_equal_the_plain_ones(described(ItemEncoding(feature_dim=3, use_id=use_id)))


def test_that_comparison_notices_codes_of_the_next_feature():
    encoder = described()
    encoder.codes.offset_C[1:] -= 1
    assert_caught(check_items_equal_the_plain_ones, encoder)


def test_that_comparison_notices_new_items_that_are_known_by_their_ids(monkeypatch):
    """Where they are named, though not in the table of all items."""
    right = ItemEncoder._vectors

    def broken(encoder, item_N, is_new_N):
        return right(encoder, item_N, is_new_N if item_N is None else torch.zeros_like(is_new_N))

    monkeypatch.setattr(ItemEncoder, "_vectors", broken)
    assert_caught(check_items_equal_the_plain_ones, described())


def test_that_comparison_notices_padding_that_counts(monkeypatch):
    bag = torch.nn.functional.embedding_bag
    monkeypatch.setattr(
        torch.nn.functional,
        "embedding_bag",
        lambda row, weight, mode, padding_idx: bag(row, weight, mode=mode),
    )
    assert_caught(check_items_equal_the_plain_ones, described())


def test_without_features_nothing_but_the_id_counts():
    plain = started(VectorTable(NUM_ITEMS + 1, D))
    encoder = started(ItemEncoder(NUM_ITEMS, D, (), ItemEncoding(use_id=False, id_dropout=0.5))).train()
    assert list(encoder.state_dict()) == ["embedding.weight"]
    assert torch.equal(encoder.table()[1:], plain.weight[1:])
    assert not encoder(torch.tensor([0])).any(), "an unknown item adds nothing"
    with pytest.raises(ValueError, match="known by features, and this model has none"):
        encoder.with_items(table_of(5))


def test_the_state_holds_all_that_serving_needs():
    encoder = described()
    loaded = started(ItemEncoder(NUM_ITEMS, D, FEATURES, ENCODING)).eval()
    assert not torch.equal(loaded.table(), encoder.table())
    loaded.load_state_dict(encoder.state_dict())
    assert torch.equal(loaded.table(), encoder.table())
    trained = {name for name, _ in encoder.named_parameters()}
    assert set(encoder.state_dict()) - trained == {"code_VC", "vector_VX", "is_new_V"}


def test_a_cold_item_is_a_warm_one_without_its_id():
    encoder = described()
    encoder.code_VC[10], encoder.vector_VX[10] = encoder.code_VC[2], encoder.vector_VX[2]
    warm, cold = encoder(torch.tensor([2, 10]))
    assert not torch.allclose(warm, cold)
    encoder.is_new_V[2] = True
    warm, cold = encoder(torch.tensor([2, 10]))
    torch.testing.assert_close(warm, cold, rtol=SAME_SUM, atol=SAME_SUM)


def test_id_dropout_takes_its_share_of_the_items_for_new_ones():
    encoder = described()
    assert torch.equal(encoder.table(), encoder.table())
    encoder.train()
    known, new = described(), described()
    new.is_new_V[:] = True
    rows = torch.stack([encoder.table() for _ in range(400)])
    is_new_SV = torch.isclose(rows, new.table()).all(2)
    assert (is_new_SV | torch.isclose(rows, known.table()).all(2)).all(), "an item is either known or new"
    share_V = is_new_SV.double().mean(0)
    assert share_V[1:10] == pytest.approx([0.3] * 9, abs=0.1) and (share_V[[0, 10, 11]] == 1).all()
    item_E = torch.tensor([4, 4, 4])
    for _ in range(20):
        first, *others = encoder(item_E)
        for other in others:  # another row of the same product
            torch.testing.assert_close(other, first, rtol=SAME_SUM, atol=SAME_SUM)


def test_training_reaches_the_new_item_and_only_ids_of_known_ones():
    encoder = described().train()
    encoder.table().square().sum().backward()
    touched = encoder.embedding.weight.grad.any(1)
    assert not touched[[0, 10, 11]].any() and touched[1:10].any() and not touched[1:10].all()
    assert encoder.new_item_D.grad.any() and encoder.project.weight.grad.any()
    assert not encoder.codes.table.weight.grad[0].any(), "padding is no value"


def test_missing_and_unseen_values_add_nothing_until_they_are_trained():
    codes = started(CodeEmbedding(FEATURES, 3))
    missing = [MISSING_VALUE, MISSING_VALUE, PADDING, PADDING, MISSING_VALUE]
    unseen = [UNSEEN_VALUE, UNSEEN_VALUE, PADDING, PADDING, MISSING_VALUE]
    known = [FIRST_VALUE, FIRST_VALUE, PADDING, PADDING, FIRST_VALUE]
    vectors = codes(torch.tensor([missing, unseen, known]))
    assert not vectors[:2].any() and vectors[2].any(1).all()
    torch.nn.init.normal_(codes.table.weight)
    first, second, _ = codes(torch.tensor([missing, unseen, known]))
    assert (first[:2] != second[:2]).all() and torch.equal(first[2], second[2])


def test_items_added_after_training_leave_the_others_as_they_were():
    encoder = described()
    more = table_of(7, seed=4)[1:]
    grown = encoder.with_items(more)
    assert torch.allclose(grown.table()[: NUM_ITEMS + 1], encoder.table(), atol=1e-6)
    twin = FeatureTable(FEATURES, encoder.code_VC[10:11].numpy(), encoder.vector_VX[10:11].numpy())
    torch.testing.assert_close(
        encoder.with_items(twin)(torch.tensor([12, 10])).diff(dim=0), torch.zeros(1, D)
    )
    assert grown.num_items == NUM_ITEMS + 6 and len(grown.table().unique(dim=0)) == NUM_ITEMS + 7
    again = started(ItemEncoder(NUM_ITEMS + 6, D, FEATURES, ENCODING)).eval()
    again.load_state_dict(grown.state_dict())
    assert torch.equal(again.table(), grown.table())
    with torch.no_grad():
        grown.project.weight.zero_()
    assert encoder.table().any(), "the weights are copies"
    other = FeatureTable(FEATURES[:1], more.code_NK[:, :1], more.vector_NW[:, :0])
    with pytest.raises(
        ValueError, match="the added items have brand; the model was built for brand, text, genre"
    ):
        encoder.with_items(other)


def test_vectors_have_the_type_of_the_weights_under_autocast():
    encoder = described()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder.table()
    assert rounded.dtype == torch.float32
    error = (rounded - encoder.table()).norm() / encoder.table().norm()
    assert 0 < error < 0.02, "the product itself runs in bf16"


def test_a_table_of_another_dataset_is_refused():
    with pytest.raises(
        ValueError, match="of 12 items; the model was built for brand, text, genre, year of 11"
    ):
        described().describe(table_of(NUM_ITEMS + 2), np.append(TRAIN_EVENTS, 1))
    other = (Feature("brand", Category(("x", "y", "q"))), *FEATURES[1:])
    table = table_of(NUM_ITEMS + 1)
    with pytest.raises(ValueError, match="use the dataset it was built for"):
        described().describe(FeatureTable(other, table.code_NK, table.vector_NW), TRAIN_EVENTS)


def test_at_the_start_every_part_makes_vectors_of_an_ids_size():
    torch.manual_seed(2)
    wide = (Feature("text", Vector(width=37)),)
    rng = np.random.default_rng(3)
    vector_NW = rng.normal(size=(402, 37)).astype(np.float32)
    vector_NW /= np.linalg.norm(vector_NW, axis=1, keepdims=True)
    encoder = started(ItemEncoder(401, 31, wide)).eval()
    encoder.describe(
        FeatureTable(wide, np.zeros((402, 0), dtype=np.int32), vector_NW), np.ones(402, dtype=np.int64)
    )
    by_text = encoder.vector_VX @ encoder.project.weight[:, 31:].T
    by_id = encoder.table() - by_text
    assert by_text.std().item() == pytest.approx(0.02, rel=0.15)
    assert by_id.std().item() == pytest.approx(0.02, rel=0.15)


def test_users_and_contexts_are_sums():
    torch.manual_seed(0)
    features = FEATURES[2:]
    encoder = started(FeatureEncoder(features, D))
    torch.nn.init.normal_(encoder.codes.table.weight)
    genre, year = encoder.codes(torch.tensor([[2, 3, PADDING, 4]]))[0]
    weight = encoder.codes.table.weight
    torch.testing.assert_close(encoder(torch.tensor([[2, 3, PADDING, 4]]))[0], genre + year)
    torch.testing.assert_close(genre, (weight[1 + 2] + weight[1 + 3]) / 2)
    torch.testing.assert_close(year, weight[1 + 4 + 4])
    with pytest.raises(ValueError, match="2 columns of feature codes, and the model was built for 4"):
        encoder(torch.zeros(1, 2, dtype=torch.int64))


def test_without_features_a_user_adds_nothing():
    assert torch.equal(
        started(FeatureEncoder((), D))(torch.zeros(3, 0, dtype=torch.int64)), torch.zeros(3, D)
    )


@pytest.mark.parametrize("settings", [{"id_dropout": 1.0}, {"id_dropout": -0.1}, {"feature_dim": 0}])
def test_encodings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=f"^model.items.{next(iter(settings))} = "):
        ItemEncoding(**settings)
