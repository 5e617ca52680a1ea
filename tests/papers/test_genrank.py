"""GenRank's studies arrange events as the paper does (section 4.2, figure 3)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import ACTIONS, MAX_EVENTS, NUM_ITEMS, assert_caught, assert_not_vacuous, batch_of, started
from torch import Tensor

from plait.compare.variants import Variant
from plait.layouts.arrange import candidate_tokens
from plait.models.generative import GenerativeRecommender, ModelConfig
from plait.models.inputs import Inputs, training_inputs
from plait.papers import genrank
from plait.papers.ablation import Ablation
from plait.papers.speed import Race

REQUESTS = [0, 0, 1, 1, 2, 2]  # figure 3: two candidates, here after two requests of two events each


def variants_of(study) -> list[Variant]:
    ablations = [part for part in study.parts if isinstance(part, Ablation)]
    races = [part for part in study.parts if isinstance(part, Race)]
    found = [variant for part in ablations for arm in part.arms for variant in arm.variants]
    return found + [each for race in races for racer in race.racers for each in (racer.cheap, racer.dear)]


VARIANTS = {
    variant.name: variant
    for study in genrank.STUDIES
    for variant in variants_of(study)
    if not variant.settings.model.ranker.is_on  # which reads no sequence of candidates
}


def asked(variant: Variant) -> tuple[GenerativeRecommender, Inputs]:
    """A model of the variant's trunk and layout, and one user whose last request is asked about."""
    settings = variant.settings
    trunk = replace(settings.model.trunk, dim=16, dropout=0.0)
    config = ModelConfig(
        layout=settings.layout,
        settings=replace(settings.model, trunk=trunk, late=type(settings.model.late)(), tower=genrank.TOWER),
        num_items=NUM_ITEMS,
        actions=ACTIONS,
        max_events=MAX_EVENTS,
    )
    model = started(GenerativeRecommender(config)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(1))
    batch = replace(
        batch_of([len(REQUESTS)]), request_E=np.array(REQUESTS), time_s_E=3600 * np.array(REQUESTS)
    )
    return model, training_inputs(replace(model.plan, supervise="candidates"), batch)


def sees(model: GenerativeRecommender, inputs: Inputs) -> Tensor:
    """Which slots the hidden state of each slot depends on, by the gradient of the whole trunk."""
    length = inputs.segments.position_RL.shape[1]
    x_RLD, line_D = torch.randn(1, length, 16).requires_grad_(), torch.randn(16)
    hidden_LD = model.trunk(x_RLD, inputs.segments)[0]
    rows = [torch.autograd.grad(hidden_D @ line_D, x_RLD, retain_graph=True)[0][0] for hidden_D in hidden_LD]
    return torch.stack(rows).abs().sum(-1) > 0


def check_figure_3(variant: Variant) -> int:
    """History events have positions of their own and see each other causally, those of their own request, too; the
    candidates of one request share one position and see the history and themselves. Returns how many slots there are.
    """
    model, inputs = asked(variant)
    per_event, per_candidate = model.layout.tokens_per_event, len(candidate_tokens(model.layout))
    history, num = 4 * per_event, 4 * per_event + 2 * per_candidate
    shared = [*range(history, history + per_candidate)]
    assert inputs.segments.position_RL[0, :num].tolist() == [*range(history), *shared, *shared]
    expected = torch.ones(num, num).tril().bool()
    expected[history + per_candidate :, history : history + per_candidate] = False  # never another candidate
    if variant.settings.model.exposure.history == "full":
        expected[:history, :history] = True
    assert torch.equal(sees(model, inputs)[:num, :num], expected)
    return num


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_arranged_as_in_figure_3(name):
    torch.manual_seed(0)
    check_figure_3(VARIANTS[name])


def test_the_figure_is_met_in_both_studies():
    organised = check_figure_3(VARIANTS[genrank.ALL])
    assert_not_vacuous({"variants": len(VARIANTS), "slots": organised}, above=5)
    _, inputs = asked(VARIANTS[genrank.ALL])
    assert inputs.segments.position_RL.tolist() == [[0, 1, 2, 3, 4, 4]]
    for variant in VARIANTS.values():
        protocol = variant.settings.protocol
        assert (protocol.supervise == "candidates") != (variant.name == genrank.HISTORY_LOSS)


def test_blind_requests_are_another_arrangement():
    variant = VARIANTS[genrank.ALL]
    exposure = replace(variant.settings.model.exposure, same_request="blind")
    settings = replace(variant.settings, model=replace(variant.settings.model, exposure=exposure))
    blind = replace(variant, settings=settings)
    assert asked(blind)[1].segments.position_RL.tolist() == [[0, 0, 2, 2, 4, 4]]
    assert_caught(check_figure_3, blind)
