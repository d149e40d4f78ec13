from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from kittiwake_training.localization.losses import info_nce


def test_info_nce_is_the_mean_of_both_directions() -> None:
    rng = np.random.default_rng(0)
    q, m = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 5, 8)))
    excluded = np.zeros((5, 5), bool)
    excluded[1, 2] = excluded[2, 1] = True
    loss, _ = info_nce(*(torch.from_numpy(a) for a in (q, m, excluded)), torch.ones(5, dtype=torch.bool), 0.2)
    terms = np.exp(q @ m.T / 0.2) * ~excluded
    expected = -0.5 * (np.log(np.diag(terms) / terms.sum(1)) + np.log(np.diag(terms) / terms.sum(0)))
    assert float(loss) == pytest.approx(expected.mean(), rel=1e-5)


def test_unusable_pairs_count_nowhere() -> None:
    vectors = functional.normalize(torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0)), dim=2)
    usable = torch.tensor([True] * 4 + [False] * 2)
    none = torch.zeros(6, 6, dtype=torch.bool)
    with_them = info_nce(*vectors, none, usable, 0.1)
    without = info_nce(*vectors[:, :4], none[:4, :4], usable[:4], 0.1)
    torch.testing.assert_close(with_them, without)


def test_right_answers_are_counted() -> None:
    vectors = torch.eye(4)
    none, all_of_them = torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    assert info_nce(vectors, vectors, none, all_of_them, 0.1)[1] == 1
    assert info_nce(vectors, vectors.flip(0), none, all_of_them, 0.1)[1] == 0
