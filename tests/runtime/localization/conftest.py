"""What several tests share: a flat textured world photographed through OpenCV's own geometry, rasters to
order, and a descriptor that is small enough to compute beside the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from kittiwake_runtime.bundle import Bundle, Golden, write_bundle, write_golden
from kittiwake_runtime.localization.camera import Camera

Floats = NDArray[np.float64]
BOX_DIM = 8


def _turn(axis: int, angle_rad: float) -> Floats:
    """Rotation about one axis, by Rodrigues' formula."""
    return np.asarray(cv2.Rodrigues(np.eye(3)[axis] * angle_rad)[0])


def world_to_optical(camera: Camera, ned_m: Floats, attitude_rad: tuple[float, float, float]) -> tuple[Floats, Floats]:
    """Rotation (3, 3) and translation (3,) from NED to the optical frame, built axis by axis."""
    roll, pitch, yaw = attitude_rad
    body = _turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll)
    mount = camera.mount
    r, p, y = np.radians([mount.roll_deg, mount.pitch_deg, mount.yaw_deg])
    gimbal = _turn(2, y) @ _turn(1, p) @ _turn(0, r)
    right_down_axis = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    turn = (body @ gimbal @ right_down_axis).T
    return turn, -turn @ (ned_m + body @ np.array([mount.x_m, mount.y_m, mount.z_m]))


@dataclass(frozen=True)
class Ground:
    """A plane at down = 0 with a grey texture, north up, its middle at the origin."""

    texture: NDArray[np.uint8]
    gsd_m: float

    def photograph(self, camera: Camera, ned_m: Floats, attitude_rad: tuple[float, float, float]) -> NDArray[np.uint8]:
        """(H, W) what a camera without distortion sees; black off the texture."""
        turn, shift = world_to_optical(camera, ned_m, attitude_rad)
        middle = (self.texture.shape[0] - 1) / 2.0 * self.gsd_m
        to_plane = np.array([[0.0, -self.gsd_m, middle], [self.gsd_m, 0.0, -middle], [0.0, 0.0, 1.0]])
        homography = camera.matrix @ np.column_stack([turn[:, 0], turn[:, 1], shift]) @ to_plane
        image = cv2.warpPerspective(self.texture, homography, (camera.width, camera.height))
        return np.asarray(image, np.uint8)

    def at(self, north_m: Floats, east_m: Floats, mean_m: float) -> NDArray[np.float32]:
        """Texture in [0, 1] at points, averaged over about a square of ``mean_m``."""
        side = max(1, round(mean_m / self.gsd_m))
        blurred = cv2.blur(self.texture.astype(np.float32) / 255.0, (side, side))
        middle = (self.texture.shape[0] - 1) / 2.0
        column, row = middle + east_m / self.gsd_m, middle - north_m / self.gsd_m
        return np.asarray(cv2.remap(blurred, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR))


@pytest.fixture(scope="session")
def ground() -> Ground:
    """1 km of ground at half a metre, with detail at every scale."""
    rng = np.random.default_rng(0)
    size = 2001
    total = np.zeros((size, size), np.float32)
    for cells in (10, 40, 120, 400, 1000):
        noise = rng.random((cells, cells), np.float32)
        total += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return Ground(np.clip((total - 1.3) * 210, 0, 255).astype(np.uint8), 0.5)


@pytest.fixture
def write_raster(tmp_path: Path) -> Callable[..., Path]:
    """Writes (bands, H, W) or (H, W) values as a GeoTIFF in ``tmp_path`` and gives its path."""
    rasterio = pytest.importorskip("rasterio")

    def write(
        name: str,
        values: NDArray[Any],
        crs: str | int | None,
        west_north_gsd: tuple[float, ...],
        *,
        mask: NDArray[Any] | None = None,
        alpha: NDArray[Any] | None = None,
        **profile: Any,
    ) -> Path:
        bands = values[None] if values.ndim == 2 else values
        colours = len(bands)
        if alpha is not None:
            bands = np.concatenate([bands, alpha[None].astype(bands.dtype)])
            profile["alpha"] = "yes"
        west, north, *gsd = west_north_gsd
        path = tmp_path / name
        count, height, width = bands.shape
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(
            path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, crs=crs,
            photometric="RGB" if colours == 3 else "MINISBLACK",
            transform=rasterio.transform.from_origin(west, north, gsd[0], gsd[-1]), **profile,
        ) as file:  # fmt: skip
            file.write(bands)
            if mask is not None:
                file.write_mask(mask)
        return path

    return write


@pytest.fixture(scope="session")
def box_kernels() -> NDArray[np.float32]:
    """(8, 33, 33): what the network of `box_bundle` correlates the contrast with."""
    return np.random.default_rng(5).normal(size=(BOX_DIM, 33, 33)).astype(np.float32)


@pytest.fixture(scope="session")
def make_box_bundle(box_kernels: NDArray[np.float32]) -> Callable[[Path, str], Bundle]:
    """Writes a bundle for ``localization.descriptor`` into a folder; another name makes it another model."""
    model = _box_network(box_kernels)
    view, nothing = np.zeros((1, 2, 33, 33), np.float32), np.zeros((1, BOX_DIM, 1, 1), np.float32)
    golden = write_golden((Golden({"view": view}, {"descriptor": nothing}),))

    def make(folder: Path, name: str) -> Bundle:
        files = {"model.onnx": model, "golden.npz": golden, "card.md": b"# box\n"}
        return write_bundle(folder / name, {**_box_manifest(), "name": name}, files)

    return make


@pytest.fixture(scope="session")
def box_bundle(tmp_path_factory: pytest.TempPathFactory, make_box_bundle: Callable[[Path, str], Bundle]) -> Bundle:
    """A bundle of the task ``localization.descriptor``, of 8 dimensions."""
    return make_box_bundle(tmp_path_factory.mktemp("models"), "box")


def _box_network(kernels: NDArray[np.float32]) -> bytes:
    """view -> grey less its mean over 31 × 31 seen pixels -> eight correlations, stride 2 -> unit length."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    constants = {
        "box": np.ones((2, 1, 31, 31), np.float32),
        "kernels": kernels[:, None],
        "tiny": np.array(1e-6, np.float32),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["view", "box"], ["sums"], group=2, pads=[15, 15, 15, 15]),
        helper.make_node("Split", ["sums"], ["gray_sum", "seen_sum"], axis=1, num_outputs=2),
        helper.make_node("Split", ["view"], ["gray", "seen"], axis=1, num_outputs=2),
        helper.make_node("Add", ["seen_sum", "tiny"], ["some_seen"]),
        helper.make_node("Div", ["gray_sum", "some_seen"], ["mean"]),
        helper.make_node("Sub", ["gray", "mean"], ["difference"]),
        helper.make_node("Mul", ["difference", "seen"], ["contrast"]),
        helper.make_node("Conv", ["contrast", "kernels"], ["raw"], strides=[2, 2]),
        helper.make_node("ReduceL2", ["raw", "axis"], ["length"], keepdims=1),
        helper.make_node("Add", ["length", "tiny"], ["some_length"]),
        helper.make_node("Div", ["raw", "some_length"], ["descriptor"]),
    ]
    graph = helper.make_graph(
        nodes,
        "box",
        [helper.make_tensor_value_info("view", 1, ["N", 2, "H", "W"])],
        [helper.make_tensor_value_info("descriptor", 1, ["N", BOX_DIM, "h", "w"])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def _box_manifest() -> dict[str, Any]:
    tensor = {"dtype": "float32", "units": "1", "meaning": "as the task says"}
    side = {"min": 33, "typical": 33, "max": 2048}
    return {
        "task": "localization.descriptor",
        "licence": "Apache-2.0",
        "description": "Correlates ground with noise.",
        "inputs": [{"name": "view", "shape": ["N", 2, "H", "W"], **tensor}],
        "outputs": [{"name": "descriptor", "shape": ["N", BOX_DIM, "h", "w"], **tensor}],
        "dims": {"N": {"min": 1, "typical": 36}, "H": side, "W": side},
        "preprocessing": {},
        "calibration": {},
        "variants": {"fp32": {"file": "model.onnx", "parity": {"descriptor": 0.0}}},
        "tolerance": 1e-4,
        "training": {"data": [], "config": {}, "commit": "", "seed": 0},
        "metrics": [],
    }
