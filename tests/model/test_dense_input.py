"""The layer of a number or a vector, beside numpy in float64."""

import numpy as np
import torch

from trainer.model.dense_input import DenseInputs
from trainer.storage.attributes import DenseFeature

NAN = float("nan")


def inputs(std=0.5):
    torch.manual_seed(1)
    layers = DenseInputs({"price": 1, "image": 2}, 4, std)
    center = np.array([2, 4], np.float32)
    layers.set_scales(
        {
            "price": DenseFeature("price", np.empty((0, 1), np.float32), np.array([10], np.float32), 5.0),
            "image": DenseFeature("image", np.empty((0, 2), np.float32), center, 2.0),
        }
    )
    return layers


def test_a_row_is_standardised_and_goes_through_its_own_layer():
    layers = inputs()
    price, image = layers(torch.tensor([[20.0, 2, 6]]))
    weights = {name: layer.weight.detach().double().numpy() for name, layer in layers.layers.items()}
    np.testing.assert_allclose(price.detach()[0], weights["price"] @ [2, 0], rtol=1e-6)  # (20 - 10) / 5
    np.testing.assert_allclose(image.detach()[0], weights["image"] @ [0, 1, 0], rtol=1e-6)  # (6 - 4) / 2


def test_a_missing_row_has_a_vector_of_its_own_that_begins_at_zero():
    layers = inputs()
    price, image = layers(torch.tensor([[NAN, NAN, NAN], [10, 2, 4]]))
    assert not price.any()
    assert not image.any()
    price.sum().backward()
    gradient = layers.layers["price"].weight.grad
    assert gradient[:, 0].tolist() == [0] * 4  # the missing row says nothing of the slope, the mean neither
    assert gradient[:, 1].tolist() == [1] * 4


def test_outputs_begin_as_long_as_rows_of_a_table():
    torch.manual_seed(0)
    layers = DenseInputs({"image": 300}, 128, std=0.3 / 128**0.5)
    rows = torch.nn.functional.normalize(torch.randn(50, 300))
    (outputs,) = layers(rows)
    assert abs(outputs.detach().norm(dim=1).mean() - 0.3) < 0.03
