"""Tokens that are mixed, against loops over tokens and heads."""

import pytest
import torch
from tiny import assert_caught, started

from plait.nn.token_mixer import MixerBlock, MixerSettings, TokenMixer, mixed

SETTINGS = MixerSettings(num_tokens=3, token_width=6, num_layers=2, expansion=2)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def in_loops(x_TD: torch.Tensor) -> torch.Tensor:
    """Every head of every token, in its place."""
    tokens, dim = x_TD.shape
    width, found_TD = dim // tokens, torch.zeros_like(x_TD)
    for token in range(tokens):
        for head in range(tokens):
            taken = x_TD[token, head * width : (head + 1) * width]
            found_TD[head, token * width : (token + 1) * width] = taken
    return found_TD


def check_mixed(mix) -> None:
    x_MTD = drawn(5, 3, 6)
    for x_TD, found_TD in zip(x_MTD, mix(x_MTD), strict=True):
        assert torch.equal(found_TD, in_loops(x_TD))
    assert torch.equal(mix(mix(x_MTD)), x_MTD) and not torch.equal(mix(x_MTD), x_MTD)


def test_each_head_of_a_token_goes_to_another_token():
    check_mixed(mixed)
    assert_caught(check_mixed, lambda x_MTD: x_MTD.roll(1, dims=1))
    assert_caught(check_mixed, lambda x_MTD: x_MTD)


def plain_block(block: MixerBlock, x_TD: torch.Tensor) -> torch.Tensor:
    s_TD = block.mixed_norm(in_loops(x_TD) + x_TD)
    found = []
    for token, s_D in enumerate(s_TD):
        (of_in, in_bias), (of_out, out_bias) = (
            (part.detach().unflatten(0, (len(x_TD), -1))[token] for part in (layer.weight, layer.bias))
            for layer in (block.inner, block.outer)
        )
        found.append(of_out @ torch.nn.functional.gelu(of_in @ s_D + in_bias) + out_bias + s_D)
    return block.out_norm(torch.stack(found))


def check_block(block: MixerBlock) -> None:
    x_MTD = drawn(4, 3, 6)
    expected_MTD = torch.stack([plain_block(block, x_TD) for x_TD in x_MTD])
    torch.testing.assert_close(block(x_MTD), expected_MTD, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_block_is_what_loops_over_tokens_give(monkeypatch):
    block = started(MixerBlock(SETTINGS, dropout=0.3)).eval()
    for parameter in block.parameters():
        parameter.copy_(drawn(*parameter.shape))
    check_block(block)
    monkeypatch.setattr("plait.nn.token_mixer.mixed", lambda x_MTD: x_MTD)
    assert_caught(check_block, block)


@torch.no_grad()
def test_slices_are_filled_up_and_each_has_a_projection_of_its_own():
    mixer = started(TokenMixer(7, SETTINGS, dropout=0.0)).eval()
    read_MX = drawn(4, 7)
    weight_TDS, bias_TD = (part.unflatten(0, (3, -1)) for part in (mixer.slices.weight, mixer.slices.bias))
    filled_MX = torch.cat([read_MX, torch.zeros(4, 2)], dim=1)
    x_MTD = torch.stack(
        [filled_MX[:, 3 * t : 3 * t + 3] @ weight_TDS[t].T + bias_TD[t] for t in range(3)], dim=1
    )
    torch.testing.assert_close(mixer(read_MX), mixer.blocks(x_MTD).mean(1), rtol=1e-5, atol=1e-6)


def test_heads_that_are_no_whole_parts_of_a_token_are_refused():
    with pytest.raises(ValueError, match=r"token_width.*multiple of.*num_tokens"):
        MixerSettings(num_tokens=5, token_width=64)
