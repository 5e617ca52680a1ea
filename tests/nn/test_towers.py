"""Towers against loops over their papers' formulas, one state, one task and one expert at a time."""

from collections.abc import Callable

import msgspec
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import started
from torch import Tensor, nn

from plait.nn.towers import LATE_LIMIT, ActionTower, LateFeatures, PersonalGate, TowerConfig

D, M, TASKS, LATE = 7, 4, 3, 2
X = D + 2 * LATE
MMOE = TowerConfig(kind="mmoe", num_shared_experts=5, expert_multiple=2)
PLE = TowerConfig(kind="ple", num_shared_experts=3, num_task_experts=2, num_levels=3, expert_multiple=2)
GATED = tuple(
    TowerConfig(kind=kind, num_shared_experts=3, gate="ppnet") for kind in ("linear", "mlp", "mmoe", "ple")
)
PLAIN = (TowerConfig(kind="linear"), TowerConfig(kind="mlp"), MMOE, PLE)


def tower_of(config: TowerConfig) -> ActionTower:
    """Weights large enough that gates prefer one expert to another and biases matter."""
    torch.manual_seed(0)
    tower = started(ActionTower(config, D, TASKS, LATE))
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.5)
    return tower


def states(num: int = M) -> Tensor:
    return torch.randn(num, X, generator=torch.Generator().manual_seed(1))


def part(layer: nn.Linear, index: int, num_parts: int) -> Callable[[Tensor], Tensor]:
    """The layer whose outputs are one of several equal parts of the given layer's."""
    weight, bias = layer.weight.chunk(num_parts)[index], layer.bias.chunk(num_parts)[index]
    return lambda x: weight @ x + bias


def expert(layer: nn.Linear, index: int, num: int, x: Tensor) -> Tensor:
    return F.gelu(part(layer, index, num)(x))


def mixture(weights: Tensor, experts: list[Tensor]) -> Tensor:
    assert len(weights) == len(experts)
    return sum(weight * output for weight, output in zip(weights, experts, strict=True))


def mmoe_by_loops(mmoe: nn.Module, x: Tensor, broken: str = "") -> list[Tensor]:
    num = MMOE.num_shared_experts
    f = [expert(mmoe.experts, i, num, x) for i in range(num)]
    gates = [part(mmoe.gates, 0 if broken == "one gate for all" else k, TASKS) for k in range(TASKS)]
    return [mixture(gate(x).softmax(0), f) for gate in gates]


def ple_by_loops(ple: nn.Module, x: Tensor, broken: str = "") -> list[Tensor]:
    own, shared = [x] * TASKS, x
    num, num_own, num_shared = len(ple.levels), PLE.num_task_experts, PLE.num_shared_experts
    for j, level in enumerate(ple.levels):
        steering = [shared] * TASKS if broken == "tasks' experts read the shared mixture" else own
        experts = [
            [expert(level.own_experts, k * num_own + i, TASKS * num_own, steering[k]) for i in range(num_own)]
            for k in range(TASKS)
        ]
        common = [expert(level.shared_experts, i, num_shared, shared) for i in range(num_shared)]
        gates = [part(level.own_gates, k, TASKS)(own[k]).softmax(0) for k in range(TASKS)]
        own = [mixture(gates[k], experts[k] + common) for k in range(TASKS)]
        if j < num - 1:
            tasks = reversed(experts) if broken == "tasks in another order" else experts
            every = [output for outputs in tasks for output in outputs] + common
            shared = mixture(level.shared_gate(shared).softmax(0), every)
    return own


LOOPS = {"mmoe": mmoe_by_loops, "ple": ple_by_loops}


def tower_by_loops(config: TowerConfig, tower: ActionTower, x_MX: Tensor, broken: str = "") -> Tensor:
    """The mixture, then a hidden layer for each task."""
    mixtures = [LOOPS[config.kind](tower.shared, x, broken) for x in x_MX]
    return torch.stack(
        [
            torch.stack([F.gelu(part(tower.hidden, k, TASKS)(own[k])) for k in range(TASKS)])
            for own in mixtures
        ]
    )


@pytest.mark.parametrize("config", (MMOE, PLE), ids=lambda config: config.kind)
def test_experts_are_mixed_as_the_paper_says(config):
    tower, x = tower_of(config), states()
    assert tower(x).shape == (M, TASKS, D)
    torch.testing.assert_close(tower(x), tower_by_loops(config, tower, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "broken"),
    (
        (MMOE, "one gate for all"),
        (PLE, "tasks' experts read the shared mixture"),
        (PLE, "tasks in another order"),
    ),
)
def test_another_mixture_would_be_noticed(config, broken):
    tower, x = tower_of(config), states()
    wrong = (tower(x) - tower_by_loops(config, tower, x, broken)).abs().amax(dim=(0, 2)) > 0.01
    assert wrong.sum() >= TASKS - 1  # "one gate for all" leaves the first task as it is


def permuted(layer: nn.Linear, order: Tensor, lead: int = 0, groups: int = 1) -> None:
    """Reorders parts of a layer's outputs in place, in each of its groups, those before `lead` excepted."""
    for parameter in (layer.weight.data, layer.bias.data):
        grouped = parameter.unflatten(0, (groups, -1))
        parts = grouped[:, lead:].unflatten(1, (len(order), -1))
        grouped[:, lead:] = parts[:, order].flatten(1, 2)


@pytest.mark.parametrize("complete", (True, False))
@pytest.mark.parametrize("config", (MMOE, PLE), ids=lambda config: config.kind)
def test_experts_have_no_order(config, complete):
    """Experts may change places with their gates' columns, and not without."""
    tower, x = tower_of(config), states()
    before, order = tower(x), torch.randperm(config.num_shared_experts)
    assert not order.equal(torch.arange(len(order)))
    if config.kind == "mmoe":
        permuted(tower.shared.experts, order)
        if complete:
            permuted(tower.shared.gates, order, groups=TASKS)
    else:
        level = tower.shared.levels[1]
        permuted(level.shared_experts, order)
        if complete:
            permuted(level.own_gates, order, lead=PLE.num_task_experts, groups=TASKS)
            permuted(level.shared_gate, order, lead=TASKS * PLE.num_task_experts)
    assert torch.allclose(tower(x), before, rtol=1e-4, atol=1e-4) == complete


def unreached(tower: nn.Module, x: Tensor) -> list[str]:
    """Outputs of the tower's layers that learn nothing from the sum of all tasks' squared outputs."""
    tower.zero_grad()
    tower(x).square().sum().backward()
    layers = [(name, module) for name, module in tower.named_modules() if isinstance(module, nn.Linear)]
    assert layers
    return [f"{name}[{i}]" for name, layer in layers for i in (~layer.weight.grad.any(1)).nonzero()[:, 0]]


@pytest.mark.parametrize("config", (MMOE, PLE, *GATED), ids=lambda config: config.kind + config.gate)
def test_every_expert_and_every_gate_learns(config):
    torch.manual_seed(0)
    tower = started(ActionTower(config, D, TASKS, LATE))  # as training starts
    assert unreached(tower, states(50)) == []


def test_a_dead_expert_would_be_noticed():
    tower = tower_of(MMOE)
    tower.shared.gates.bias.data[3 :: MMOE.num_shared_experts] = -1e4  # every task's gate shuts out expert 3
    names = {f"shared.experts[{i}]" for i in range(3 * 2 * D, 4 * 2 * D)}
    assert names <= set(unreached(tower, states(50)))


@pytest.mark.parametrize("task", range(TASKS))
def test_at_the_last_level_a_tasks_own_experts_hear_that_task_alone(task):
    tower = tower_of(PLE)
    tower(states())[:, task].square().sum().backward()
    *lower, last = tower.shared.levels
    others = [k for k in range(TASKS) if k != task]
    for layer in (last.own_experts, last.own_gates, tower.hidden):
        moved = [part.any().item() for part in layer.weight.grad.chunk(TASKS)]
        assert moved[task] and not any(moved[k] for k in others)
    assert last.shared_experts.weight.grad.any()
    # Below, the shared gate mixes all experts, so they do hear it: the check can see what it denies above.
    assert all(part.any() for level in lower for part in level.own_experts.weight.grad.chunk(TASKS))


@pytest.mark.parametrize("config", (*PLAIN, *GATED), ids=lambda config: config.kind + config.gate)
def test_a_state_does_not_depend_on_its_company(config):
    tower, x = tower_of(config), states()
    together = tower(x)
    for row in range(M):
        torch.testing.assert_close(tower(x[row : row + 1])[0], together[row], rtol=1e-4, atol=1e-5)
    assert tower(x[:0]).shape == (0, *together.shape[1:])


@pytest.mark.parametrize("kind", ("mmoe", "ple"))
def test_signals_keep_their_size(kind):
    """Several layers without a norm: started as small as GPT-2's, the outputs would vanish."""
    torch.manual_seed(0)
    tower, x = started(ActionTower(TowerConfig(kind=kind), 64, 12, 0)), torch.randn(100, 64)
    assert 0.1 < tower(x).std() < 1
    for layer in tower.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
    assert tower(x).std() < 0.02, "the bound would have noticed"


# PPNet


@pytest.mark.parametrize("config", GATED, ids=lambda config: config.kind)
def test_gates_scale_what_a_tasks_own_layers_read(config):
    tower, x = tower_of(config), states()
    read = tower.shared(x)
    if tower.hidden is not None:
        read = F.gelu(tower.hidden(read * factors(tower.hidden_gate, x)))
    else:
        read = torch.stack([read] * TASKS, dim=1)
    torch.testing.assert_close(tower(x), read * factors(tower.out_gate, x))


def factors(gate: PersonalGate, x_MX: Tensor) -> Tensor:
    rows = []
    for x in x_MX:
        inner = (gate.inner.weight @ x + gate.inner.bias).clamp(min=0)
        rows.append([2 / (1 + (-part(gate.outer, k, TASKS)(inner)).exp()) for k in range(TASKS)])
    return torch.stack([torch.stack(row) for row in rows])


def test_gates_start_open_and_learn_to_tell_people_apart():
    torch.manual_seed(0)
    gate, x = started(PersonalGate(X, D, TASKS, 5)), states()
    assert gate(x).shape == (M, TASKS, 5)
    torch.testing.assert_close(gate(x), torch.ones(M, TASKS, 5), rtol=0, atol=0.2)
    nn.init.normal_(gate.outer.weight)
    other = x.clone()
    other[:, D:] += 1  # the late features
    assert ((gate(x) - gate(other)).abs().amax(dim=2) > 0.01).all()
    assert ((gate(x) > 0) & (gate(x) < 2)).all()


def test_gates_send_no_gradient_to_the_state(monkeypatch):
    tower = tower_of(TowerConfig(kind="linear", gate="ppnet"))

    def gradient() -> Tensor:
        x = states().requires_grad_()
        tower(x).sum().backward()
        return x.grad

    through_the_layers_alone = tower.out_gate(states()).sum(1)
    torch.testing.assert_close(gradient(), through_the_layers_alone)
    monkeypatch.setattr(Tensor, "detach", lambda self: self)
    assert not torch.allclose(gradient(), through_the_layers_alone, atol=0.01), "a leak would be noticed"


# Late features

COLUMNS = st.lists(
    st.tuples(st.floats(-1e3, 1e3), st.sampled_from((1e-3, 1.0, 60.0, 1e4))), min_size=3, max_size=3
)


def counts(num: int = 40) -> Tensor:
    late = torch.randn(num, 3, generator=torch.Generator().manual_seed(2)).exp()
    late[::7, 1] = torch.nan
    return late


def fitted(late: Tensor) -> LateFeatures:
    features = LateFeatures(late.shape[1])
    features.fit(late)
    return features


@settings(max_examples=30)
@given(COLUMNS)
def test_late_features_have_no_unit(columns):
    late = counts().double()
    shift, scale = torch.tensor(columns, dtype=torch.float64).T
    changed = late * scale + shift * scale
    features = fitted(changed)
    torch.testing.assert_close(features(changed), fitted(late)(late), rtol=1e-3, atol=1e-3)
    known = features(changed)[:, :3][~late.isnan()]
    assert known.mean().abs() < 1e-2 and 0.9 < known.std() < 1.1


def test_a_unit_would_be_noticed_without_the_fit():
    assert not torch.allclose(LateFeatures(3)(counts() * 60), fitted(counts())(counts()))


def test_a_missing_feature_is_the_mean_and_says_so():
    late, features = counts(), fitted(counts())
    unit, missing = features(late).chunk(2, dim=1)
    assert torch.equal(missing, late.isnan().float()) and missing.any()
    assert not unit[late.isnan()].any() and unit[~late.isnan()].all()
    at_the_mean = features(features.mean_F[None])
    torch.testing.assert_close(at_the_mean, torch.zeros(1, 6))


def test_features_that_say_nothing_stay_finite():
    """A constant, a feature that no row has, no rows at all."""
    late = torch.stack([torch.full((9,), 0.1), torch.full((9,), torch.nan), torch.arange(9.0)], dim=1)
    unit = fitted(late)(late)
    assert unit.isfinite().all() and not unit[:, :2].any()
    assert torch.equal(unit[:, 3:].mean(0), torch.tensor([0.0, 1.0, 0.0]))
    constant = fitted(torch.full((1000, 1), 0.1, dtype=torch.float64))  # whose mean is off by rounding
    torch.testing.assert_close(constant(torch.tensor([[1.1]])), torch.tensor([[1.0, 0.0]]))
    assert torch.equal(fitted(late[:0])(late).isnan(), torch.zeros(9, 6, dtype=torch.bool))


def test_an_exploding_feature_is_limited_when_served_and_refused_in_training():
    late = counts()
    features = fitted(late)
    late[3] = torch.tensor([torch.inf, -torch.inf, 1e30])
    expected = torch.tensor([LATE_LIMIT, -LATE_LIMIT, LATE_LIMIT, 0, 0, 0])
    torch.testing.assert_close(features(late)[3], expected)
    with pytest.raises(ValueError, match="late feature 0: row 3 holds inf, expected a finite number or NaN"):
        features.fit(late)


# Settings


def test_settings_travel_as_json():
    for config in (*PLAIN, *GATED):
        assert msgspec.json.decode(msgspec.json.encode(config), type=TowerConfig) == config


@pytest.mark.parametrize("name", ("num_shared_experts", "num_task_experts", "num_levels", "expert_multiple"))
def test_nothing_cannot_be_mixed(name):
    with pytest.raises(ValueError, match=f"model.tower.{name} = 0: expected a number from 1"):
        TowerConfig(**{name: 0})


@pytest.mark.parametrize(
    ("config", "num_tasks", "num_late", "message"),
    (
        (
            MMOE,
            0,
            1,
            "kind='mmoe'.*the data has no actions: name action columns when preparing, or use kind='mlp'",
        ),
        (PLE, 0, 0, "kind='ple'.*no actions"),
        (
            GATED[1],
            2,
            0,
            r"gate='ppnet'.*no late features \(feature columns that appear at scoring time only\)",
        ),
        (GATED[1], 0, 2, "gate='ppnet'.*there are no actions: add them, or use gate='none'"),
    ),
)
def test_a_tower_for_nothing_is_refused(config, num_tasks, num_late, message):
    with pytest.raises(ValueError, match=message):
        started(ActionTower(config, D, num_tasks, num_late))
