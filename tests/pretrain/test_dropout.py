"""What dropout promises: its share is dropped, the mean stays, the gradient goes the same way, seeds repeat."""

import pytest
import torch
from torch import nn

from pretrain.model.dropout import Dropout, dropout, replace_dropout


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_the_share_is_dropped_and_the_mean_stays(share):
    torch.manual_seed(0)
    given = torch.rand(1000, 1001)
    left = dropout(given, share)
    assert (left == 0).float().mean().item() == pytest.approx(share, abs=2e-3)
    assert left.mean().item() == pytest.approx(given.mean().item(), rel=1e-2)
    torch.testing.assert_close(left[left != 0], given[left != 0] / (1 - share), rtol=1e-4, atol=0)


def test_neighbours_are_dropped_independently():
    """Four decisions come from one random number."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(4, 250_000), 0.5) != 0).float().T.reshape(-1, 4)
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 0.01


def test_the_gradient_passes_where_the_value_did():
    given = torch.randn(7, 13, requires_grad=True)
    left = dropout(given, 0.3)
    left.sum().backward()
    torch.testing.assert_close(given.grad * given.detach(), left.detach())
    assert 0 < (given.grad == 0).sum() < given.numel()


def test_the_same_seed_drops_the_same():
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(dropout(torch.ones(50, 3), 0.2))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_it_takes_the_place_of_torchs_and_does_nothing_in_evaluation():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(0.25)))
    replace_dropout(model)
    assert type(model[1][0]) is Dropout and model[1][0].p == 0.25
    given = torch.ones(100, 4)
    assert (model[1](given) == 0).any()
    assert torch.equal(model.eval()[1](given), given)
