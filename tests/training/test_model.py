from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kittiwake_training.localization.capsules import CapsuleDescriptor
from kittiwake_training.localization.gradients import GradientDescriptor
from kittiwake_training.localization.model import LARGEST_PX, DescriptorCNN, LocalContrast, flops_per_pixel


def _as_trained(model: nn.Module) -> nn.Module:
    """Every branch says something: residual blocks begin as their skips."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def _cnn(width: int = 16, colours: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return _as_trained(DescriptorCNN(width=width, colours=colours))


def _capsules() -> nn.Module:
    torch.manual_seed(0)
    return _as_trained(CapsuleDescriptor(width=16, dim=48, sigmas_px=(5.0,), parts=4))


MODELS = pytest.mark.parametrize(
    "model", [_cnn(), _capsules(), GradientDescriptor().eval()], ids=["cnn", "capsules", "gradients"]
)


def _view(*shape: int, seed: int = 0) -> torch.Tensor:
    view = torch.rand(shape[0], 2, *shape[1:], generator=torch.Generator().manual_seed(seed))
    view[:, 1] = 1.0
    return view


@MODELS
@pytest.mark.parametrize("size", [(33, 33), (34, 35), (63, 80)])
def test_output_has_one_unit_vector_every_two_pixels(model: nn.Module, size: tuple[int, int]) -> None:
    described = model(_view(2, *size))
    assert described.shape == (2, 48, (size[0] - 33) // 2 + 1, (size[1] - 33) // 2 + 1)
    torch.testing.assert_close(described.norm(dim=1), torch.ones_like(described[:, 0]))


@MODELS
def test_a_patch_alone_and_the_same_patch_inside_a_map_agree(model: nn.Module) -> None:
    patch = _view(1, 33, 33)
    ground = torch.zeros(1, 2, 90, 81)
    ground[:, :, 20:53, 30:63] = patch
    with torch.no_grad():
        torch.testing.assert_close(model(ground)[:, :, 10, 15], model(patch)[:, :, 0, 0], atol=2e-6, rtol=0)


@MODELS
def test_receptive_field_is_33_pixels_wide_and_centred(model: nn.Module) -> None:
    contrast = torch.randn(1, 2, 65, 65, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)
    contrast[:, 1] = 1.0
    contrast.requires_grad_()
    described = model.describe(contrast)[0, :, 8, 8]
    (described * torch.linspace(-1, 1, 48)).sum().backward()
    rows, columns = np.nonzero(contrast.grad[0, 0].numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 48, 16, 48)


def test_a_network_in_colour_describes_a_patch_and_a_map_alike_and_tells_colours_apart() -> None:
    model, generator = _cnn(colours=3), torch.Generator().manual_seed(2)
    patch, ground = torch.rand(1, 4, 33, 33, generator=generator), torch.zeros(1, 4, 90, 81)
    patch[:, 3] = 1.0
    ground[:, :, 20:53, 30:63] = patch
    with torch.no_grad():
        described = model(patch)
        torch.testing.assert_close(model(ground)[:, :, 10:11, 15:16], described, atol=2e-6, rtol=0)
        assert (described * model(patch[:, [2, 1, 0, 3]])).sum() < 0.99


def test_a_widened_network_says_of_gray_what_the_gray_one_said() -> None:
    gray, coloured = _cnn(), _cnn(colours=3)
    coloured.load_state_dict(coloured.widened(gray.state_dict()))
    view = _view(2, 40, 44)
    with torch.no_grad():
        torch.testing.assert_close(coloured(view[:, [0, 0, 0, 1]]), gray(view), atol=1e-5, rtol=0)


def test_cost_stays_below_what_the_device_can_pay() -> None:
    model = DescriptorCNN().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(_view(1, 257, 257))
    counted = counter.get_total_flops() / 257**2
    assert counted < 0.7e6
    assert counted == pytest.approx(flops_per_pixel(128, 48), rel=0.15)  # the border costs less


def test_local_contrast_is_the_masked_gaussian_one() -> None:
    rng = np.random.default_rng(0)
    gray, mask = rng.random((40, 44)), rng.random((40, 44)) > 0.3
    view = torch.from_numpy(np.stack([gray * mask, mask]))[None].float()
    result = LocalContrast()(view)[0, 0].numpy()
    for row, column in ((0, 0), (20, 22), (39, 10)):
        r, c = np.mgrid[:40, :44]
        inside = mask & (abs(r - row) <= 15) & (abs(c - column) <= 15)
        weight = inside * np.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * 25))
        mean = np.average(gray, weights=weight)
        spread = np.sqrt(np.average((gray - mean) ** 2, weights=weight) + 0.01**2)
        expected = np.clip((gray[row, column] - mean) / spread, -3, 3) * mask[row, column]
        assert result[row, column] == pytest.approx(expected, abs=1e-4)


def test_local_contrast_of_colours_is_that_of_luma_and_of_what_red_and_blue_have_beyond_it() -> None:
    rgb, mask = torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(3)), torch.ones(1, 20, 24)
    luma = 0.299 * rgb[:1] + 0.587 * rgb[1:2] + 0.114 * rgb[2:]
    coloured = LocalContrast((5.0,), colours=3)(torch.cat([rgb, mask])[None])[0]
    torch.testing.assert_close(coloured[:2], LocalContrast((5.0,))(torch.cat([luma, mask])[None])[0])
    alone = LocalContrast((5.0,))
    alone.spread_floor = LocalContrast.chroma_floor
    for chroma, band in ((coloured[2:3], rgb[:1]), (coloured[3:], rgb[2:])):
        beyond = 0.5 + band - luma
        torch.testing.assert_close(chroma, alone(torch.cat([beyond, mask])[None])[0, :1], atol=1e-4, rtol=1e-4)


def test_local_contrast_takes_maps_that_no_exported_network_would() -> None:
    row = torch.rand(1, 2, 1, LARGEST_PX + 20)
    whole = LocalContrast()(row)
    torch.testing.assert_close(whole[..., -8:], LocalContrast()(row[..., -60:])[..., -8:])


@MODELS
def test_gain_and_offset_of_the_light_don_t_matter(model: nn.Module) -> None:
    view = _view(1, 33, 33)
    view[:, 0] = 0.2 + 0.4 * view[:, 0]
    darker = view.clone()
    darker[:, 0] = 0.6 * view[:, 0] + 0.05
    with torch.no_grad():
        cosine = (model(view) * model(darker)).sum()
    assert cosine > 0.995


def test_hand_made_descriptor_keeps_through_inversion_and_changes_with_heading() -> None:
    model = GradientDescriptor()
    view = torch.nn.functional.avg_pool2d(_view(1, 132, 132), 4)
    inverted = torch.stack([1 - view[:, 0], view[:, 1]], dim=1)
    assert (model(view) * model(inverted)).sum() == pytest.approx(1.0, abs=1e-3)
    assert (model(view) * model(view.rot90(1, (2, 3)))).sum() < 0.9
