from __future__ import annotations

import numpy as np
import torch

from kittiwake_training.localization.capsules import route, squash


def _squash(s: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(s)
    return length**2 / (1 + length**2) * s / length


def _route(votes: np.ndarray, rounds: int) -> np.ndarray:
    """Procedure 1 of arXiv 1710.09829, as it stands there, for one cell: (parts, wholes, numbers)."""
    parts, wholes, _ = votes.shape
    b = np.zeros((parts, wholes))
    for turn in range(rounds):
        c = np.exp(b) / np.exp(b).sum(axis=1, keepdims=True)
        v = np.stack([_squash(sum(c[i, j] * votes[i, j] for i in range(parts))) for j in range(wholes)])
        if turn < rounds - 1:
            for i in range(parts):
                for j in range(wholes):
                    b[i, j] += votes[i, j] @ v[j]
    return v


def test_routing_is_the_papers_procedure() -> None:
    votes = np.random.default_rng(0).normal(size=(5, 3, 4))
    for rounds in (1, 2, 3):
        ours = route(torch.from_numpy(votes).float()[None, ..., None, None], rounds)[0, :, :, 0, 0]
        np.testing.assert_allclose(ours.numpy(), _route(votes, rounds), atol=1e-5)


def test_squash_keeps_the_direction_and_ends_below_one() -> None:
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0)) * 5
    squashed = squash(x, 2)
    length = x.norm(dim=2)
    torch.testing.assert_close(squashed.norm(dim=2), length**2 / (1 + length**2))
    torch.testing.assert_close(torch.cosine_similarity(squashed, x, dim=2), torch.ones(2, 6))
    assert torch.isfinite(squash(torch.zeros(1, 2, 8), 2)).all()


def test_the_gradient_flows_through_the_last_round_alone() -> None:
    """Couplings are constants to it: the gradient is that of a weighted sum with the couplings held."""
    votes = torch.randn(1, 5, 3, 4, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    votes.requires_grad_()
    target = torch.randn(1, 3, 4, 1, 1, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((route(votes, 3) * target).sum(), votes)
    with torch.no_grad():
        b = torch.zeros(1, 5, 3, 1, 1, 1)
        for _ in range(2):
            v = squash((torch.softmax(b, dim=2) * votes).sum(dim=1), 2)
            b = b + (votes * v[:, None]).sum(dim=3, keepdim=True)
        couplings = torch.softmax(b, dim=2)
    held = squash((couplings * votes).sum(dim=1), 2)
    (expected,) = torch.autograd.grad((held * target).sum(), votes)
    torch.testing.assert_close(gradient, expected)
