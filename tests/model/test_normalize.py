"""Rows are scaled to one length, and the gradient derived by hand is that of finite differences."""

import pytest
import torch

from trainer.model.normalize import normalize


def test_normalized_rows_have_the_length_and_the_gradients_of_finite_differences() -> None:
    vectors = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    length = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    assert normalize(vectors, length).norm(dim=1).tolist() == pytest.approx([2.5] * 5)
    assert torch.autograd.gradcheck(normalize, (vectors, length))
    found = normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))  # 3 / 5, 4 / 5
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
