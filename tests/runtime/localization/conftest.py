"""What several tests share: a flat textured world photographed through OpenCV's own geometry, rasters to
order, and a descriptor that is small enough to compute beside the engine, and countries of noise to fly over."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from kittiwake_runtime.bundle import Bundle, Golden, write_bundle, write_golden
from kittiwake_runtime.localization.camera import Camera
from kittiwake_runtime.localization.descriptor import rotated_views
from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.footprint import DISC_PX, HEADINGS, disc_mask
from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.map_format import TILE_PX, MapMeta, encode_tile, make_levels, tile_shape
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.map_tiles import SCALE, quantize
from kittiwake_runtime.localization.map_writer import MapWriter

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


PROJECTIONS = 48
COUNTRY_CELL_M = 10.0
COUNTRY_GSD_M = COUNTRY_CELL_M / 2


class NoiseEngine:
    """Stands in for an engine: a view's correlations with smooth noise on the disc, as a unit vector.

    Attributes:
        kernels: ``(48, 33, 33)``, zero outside the disc and in the mean over it.
        bundle: what the localizer reads of one; its calibration is measured by `country`.
    """

    def __init__(self, seed: int = 5) -> None:
        disc = disc_mask(DISC_PX)
        noise = np.random.default_rng(seed).normal(size=(PROJECTIONS, DISC_PX, DISC_PX))
        smooth = np.stack([cv2.GaussianBlur(kernel, (0, 0), 1.5) for kernel in noise]) * disc
        self.kernels = (smooth - smooth[:, disc].mean(axis=1)[:, None, None] * disc).astype(np.float32)
        view, output = (SimpleNamespace(shape=("N", channels, "H", "W")) for channels in (2, PROJECTIONS))
        self.bundle = SimpleNamespace(
            name="noise", sha256=f"{seed:064x}", inputs=(view,), outputs=(output,), calibration={}
        )

    def infer(self, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Views of exactly the disc's size; what was not seen counts as the mean of what was."""
        grey, seen = inputs["view"][:, 0], inputs["view"][:, 1]
        mean = grey.sum(axis=(1, 2)) / np.maximum(seen.sum(axis=(1, 2)), 1)
        contrast = (grey - mean[:, None, None] * seen).reshape(len(grey), -1)
        return {"descriptor": _unit(contrast @ self.kernels.reshape(PROJECTIONS, -1).T)[:, :, None, None]}


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9), np.float32)


@dataclass(frozen=True)
class Country:
    """Ground of smooth noise at 5 m, mapped in cells of 10 m, and what a vehicle sees of it.

    Attributes:
        index: its map; the ground reaches beyond it.
        engine: made the map.
        ground: ``(H, W) float32`` grey, row 0 in the north.
        west_m, north_m: centre of the ground's first pixel.
    """

    index: MapIndex
    engine: NoiseEngine
    ground: NDArray[np.float32]
    west_m: float
    north_m: float

    def view(
        self, east_m: float, north_m: float, heading_rad: float, noise: int | None = None, height: float = 1.0
    ) -> NDArray[np.float32]:
        """``(33, 33)`` what is seen at a pose, its forward axis up.

        Args:
            noise: seed of what has changed since the map, 0.4 to 1.1 of its contrast; None: nothing has.
            height: true height over the one that the patch was made for: a sample covers that much more ground.
        """
        along = (DISC_PX // 2 - np.arange(DISC_PX)) * COUNTRY_GSD_M * height
        forward, left = along[:, None], along[None, :]
        c, s = np.cos(heading_rad), np.sin(heading_rad)
        column = (east_m + c * forward - s * left - self.west_m) / COUNTRY_GSD_M
        row = (self.north_m - north_m - s * forward - c * left) / COUNTRY_GSD_M
        seen = cv2.remap(self.ground, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR)
        if noise is not None:
            strength = np.random.default_rng(noise).uniform(0.4, 1.1)
            seen = seen + strength * _noise_ground((DISC_PX, DISC_PX), noise)
        return np.where(disc_mask(DISC_PX), _grey(seen), np.nan).astype(np.float32)

    def walk(
        self, seed: int, start: Sequence[float] | None = None, step_m: float = 100.0, inside_m: float = 150.0
    ) -> Iterator[tuple[OdometryStep | None, tuple[float, float, float]]]:
        """An endless walk by the benchmark's protocol: measured step and true east, north, heading of each frame.

        Args:
            seed: of the walk.
            start: east, north and heading; somewhere on the map when None.
            step_m: length of a step; the heading's walk and the odometry's turn are for each 100 m of it.
            inside_m: the walk is mirrored where a step would end closer than this to the border.
        """
        rng = np.random.default_rng(seed)
        west, south, east, north = np.array(self.index.bounds_m) + np.array([1, 1, -1, -1]) * inside_m
        x, y, heading = start or (rng.uniform(west, east), rng.uniform(south, north), rng.uniform(-np.pi, np.pi))
        yield None, (x, y, heading)
        sigma_m, sigma_turn = 0.02 * step_m, math.radians(1.5) * math.sqrt(step_m / 100)
        while True:
            turned = heading + rng.normal(0, math.radians(15) * math.sqrt(step_m / 100))
            if not west <= x + step_m * math.cos(turned) <= east:
                turned = math.pi - turned
            if not south <= y + step_m * math.sin(turned) <= north:
                turned = -turned
            turn, heading = turned - heading, turned
            x, y = x + step_m * math.cos(heading), y + step_m * math.sin(heading)
            forward, left = (rng.normal(step_m * part, sigma_m) for part in (math.cos(turn), math.sin(turn)))
            measured_turn = turn + rng.normal(0, sigma_turn)
            yield OdometryStep(forward, left, measured_turn, sigma_m, sigma_turn, step_m / 20), (x, y, heading)


def _grey(contrast: NDArray[np.float32]) -> NDArray[np.float32]:
    """Contrast of unit deviation as grey in [0, 1]."""
    return np.asarray(np.clip(0.5 + 0.15 * contrast, 0, 1), np.float32)


def _noise_ground(shape: tuple[int, int], seed: int) -> NDArray[np.float32]:
    """Grey of unit contrast with detail down to 10 m."""
    smooth = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=shape), (0, 0), 2.0)
    return np.asarray(smooth / smooth.std(), np.float32)


@pytest.fixture(scope="session")
def noise_engine(tmp_path_factory: pytest.TempPathFactory) -> NoiseEngine:
    """An engine whose calibration was measured on a country of its own."""
    engine = NoiseEngine()
    folder = tmp_path_factory.mktemp("calibration")
    engine.bundle.calibration.update(_calibration(make_country(folder, engine, seed=99, rows=100, cols=100)))
    return engine


@pytest.fixture(scope="session")
def country(tmp_path_factory: pytest.TempPathFactory, noise_engine: NoiseEngine) -> Country:
    """2 km of ground, mapped all over."""
    return make_country(tmp_path_factory.mktemp("country"), noise_engine)


@pytest.fixture(scope="session")
def country_maker(tmp_path_factory: pytest.TempPathFactory, noise_engine: NoiseEngine) -> Callable[..., Country]:
    """Makes other countries: see `make_country`."""
    return lambda **changes: make_country(tmp_path_factory.mktemp("country"), noise_engine, **changes)


def make_country(
    folder: Path,
    engine: NoiseEngine,
    *,
    seed: int = 1,
    rows: int = 200,
    cols: int = 200,
    west_m: float = 500_000.0,
    north_m: float = 6_650_000.0,
    crs: str = "EPSG:32635",
    valid: NDArray[np.bool_] | None = None,
    beyond: int = 20,
) -> Country:
    """Ground, and the index of its middle.

    Args:
        seed: of the ground.
        rows, cols: of the map, cells of 10 m.
        west_m, north_m: centre of its first cell.
        valid: ``(rows, cols)`` cells that have data.
        beyond: cells of ground on each side of the map.
    """
    ground = _noise_ground((2 * (rows + 2 * beyond), 2 * (cols + 2 * beyond)), seed)
    grey = np.stack([cv2.filter2D(ground, -1, kernel) for kernel in engine.kernels], axis=-1)
    cells = quantize(_unit(grey[2 * beyond : 2 * (rows + beyond) : 2, 2 * beyond : 2 * (cols + beyond) : 2]))
    known = np.ones((rows, cols), np.bool_) if valid is None else valid
    meta = MapMeta(
        crs=Grid.from_crs(crs).wkt, west_m=west_m - COUNTRY_CELL_M / 2, north_m=north_m + COUNTRY_CELL_M / 2,
        rows=rows, cols=cols, dim=PROJECTIONS, cell_m=COUNTRY_CELL_M, footprint_m=DISC_PX * COUNTRY_GSD_M,
        scale=SCALE, bundle_name="noise", bundle_sha256=engine.bundle.sha256, imagery_date=None,
        imagery_gsd_m=COUNTRY_GSD_M, source="", licence="", georef_sigma_m=2.0, proj={}, files=("noise.tif",),
        levels=make_levels(rows, cols, COUNTRY_CELL_M, COUNTRY_GSD_M),
    )  # fmt: skip
    with MapWriter(folder / "country.kwmap", meta) as writer:
        writer.put_cells(0, 0, np.where(known[..., None], cells, np.int8(0)), known)
        # The ground's samples lie in the cells' centres and between them, a picture's half a pixel beside those.
        between = cv2.blur(ground, (2, 2), anchor=(1, 1))[2 * beyond :, 2 * beyond :][: 2 * rows, : 2 * cols]
        _put_pictures(writer, meta, _grey(between), known.repeat(2, 0).repeat(2, 1))
    margin_m = beyond * COUNTRY_CELL_M
    return Country(MapIndex.open(folder / "country.kwmap"), engine, ground, west_m - margin_m, north_m + margin_m)


def _put_pictures(writer: MapWriter, meta: MapMeta, grey: NDArray[np.float32], known: NDArray[np.bool_]) -> None:
    """The pyramid of a grey picture in [0, 1] that fills the finest level."""
    for number, level in enumerate(meta.levels):
        size, area = (level.width, level.height), cv2.INTER_AREA
        picture = np.rint(255 * cv2.resize(grey, size, interpolation=area)).astype(np.uint8)
        seen = cv2.resize(known.astype(np.float32), size, interpolation=area) > 0.5
        for row, col in np.ndindex(*level.tiles):
            height, width = tile_shape(level, row, col)
            tile = np.s_[row * TILE_PX :, col * TILE_PX :]
            rgb = np.repeat(picture[tile][:height, :width, None], 3, axis=2)
            writer.put_tile(number, row, col, *encode_tile(rgb, seen[tile][:height, :width]))


def _calibration(country: Country, views: int = 200) -> dict[str, Any]:
    """What training would have found: histograms of z at right and at wrong cells, and the best softmax."""
    rng, index = np.random.default_rng(7), country.index
    headings = np.arange(HEADINGS) * 2 * np.pi / HEADINGS
    cells = index.cells(0, index.rows, 0, index.cols).astype(np.float32)
    some = cells.reshape(-1, index.dim)[rng.permutation(index.rows * index.cols)[:500]]
    right, wrong = np.zeros(views), np.zeros((views, 500, HEADINGS))
    for view in range(views):
        row, col = rng.uniform(10, index.rows - 10), rng.uniform(10, index.cols - 10)
        heading = rng.uniform(-np.pi, np.pi)
        patch = country.view(index.e0 + col * index.cell_m, index.n0 - row * index.cell_m, heading, noise=view)
        vectors = country.engine.infer({"view": rotated_views(patch, headings, 1)})["descriptor"][:, :, 0, 0]
        scores = some @ vectors.T
        score = cells[round(row), round(col)] @ vectors[np.argmax(np.cos(headings - heading))]
        right[view] = (score - scores.mean()) / scores.std()
        wrong[view] = (scores - scores.mean()) / scores.std()
    slopes = np.linspace(0.5, 10.0, 39)
    gains = [(slope * right - np.log(np.exp(slope * wrong).mean(axis=(1, 2)))).mean() for slope in slopes]
    bins = np.linspace(-6.0, 14.0, 65)
    counts = {name: np.histogram(z, bins)[0].tolist() for name, z in (("positive", right), ("negative", wrong))}
    return {"z": {"lo": -6.0, "hi": 14.0, **counts}, "softmax": {"slope": slopes[np.argmax(gains)], "null": 0.02}}
