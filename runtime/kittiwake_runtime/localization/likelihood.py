"""From a descriptor's score to a likelihood ratio.

A score is standardized by the frame's own background, z = (score - mean) / std over the states of the map. A ratio
of p(z | the right place) to p(z | a wrong place) is then made fair to the frame: it is divided by its own mean over
an even sample of the map's states. So wrong places average to 1 in every frame, also in one of plain ground that
matches everything a little; "not on this map" has the likelihood 1, and the evidence of a frame is the mean of
the ratio over the belief. Three estimates are siblings here and are compared by the benchmark: softmax, a kernel
density (ICAR 2021; SIVL, RA-L 2022) and a parametric fit. Pooled densities mix frames of heavy and of light tails
and so are too flat for each of them; softmax is fitted frame by frame, and is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BundleError

LEVELS = 256
"""Steps into which z is quantized: a table look-up per state is as fast as an exponential."""


@dataclass(frozen=True)
class Likelihood:
    """A tabulated log-likelihood ratio of standardized scores, up to a constant that each frame sets.

    Attributes:
        lo, hi: range of z that the table covers; below and above, the end values hold.
        log_ratio: ``(256,) float64``, natural logarithm at evenly spaced z.
        null: share of frames of the right place that say nothing (blur, cloud, water, change): the floor of the
            ratio, L = (1 - null) L(z) + null, bounds what one bad frame can destroy.
    """

    lo: float
    hi: float
    log_ratio: npt.NDArray[np.float64]
    null: float = 0.05

    def table(self, background: npt.NDArray[np.int64], exponent: float = 1.0) -> npt.NDArray[np.float32]:
        """The ratios of one frame.

        Args:
            background: ``(256,) int64`` how often the frame's z falls on each step, over an even sample of the map's
                states.
            exponent: 0..1, tempers a view that overlaps earlier ones.

        Returns:
            ``(256,) float32``; at exponent 1 its mean over the background is 1.
        """
        relative = self.log_ratio - self.log_ratio.max()
        log_mean = np.log(np.average(np.exp(relative), weights=background))
        # No frame is surer than e^30 to one: beyond that float32 masses would overflow.
        fair = np.exp(np.minimum(relative - log_mean, 30))
        return np.asarray(((1 - self.null) * fair + self.null) ** exponent, np.float32)

    @property
    def steps_per_z(self) -> float:
        """Levels of the table in one unit of z."""
        return (LEVELS - 1) / (self.hi - self.lo)


def softmax(calibration: Mapping[str, Any]) -> Likelihood:
    """Log-ratio linear in z: each frame's states share its probability as exp(slope z).

    Args:
        calibration: ``{"z": {"lo", "hi", ...}, "softmax": {"slope", "null"}}``, which maximize the probability of
            the right states on places that were not trained on.

    Raises:
        BundleError: a field is missing.
    """
    lo, hi, _, _ = _histograms(calibration)
    try:
        slope, null = (float(calibration["softmax"][name]) for name in ("slope", "null"))
    except (KeyError, TypeError, ValueError) as error:
        raise _uncalibrated(error) from error
    return Likelihood(lo, hi, np.linspace(slope * lo, slope * hi, LEVELS, dtype=np.float64), null)


def kernel_density(calibration: Mapping[str, Any]) -> Likelihood:
    """Ratio of two kernel densities of z, from the calibration histograms of a bundle.

    Each density has the bandwidth that its own number of samples affords (Silverman's rule): the right places are
    some thousands, the wrong ones billions, and one width for both would flatten the ratio where it matters.

    Args:
        calibration: ``{"z": {"lo", "hi", "positive": [...], "negative": [...]}}``: histograms of right and
            wrong places, made on places that were not trained on.

    Raises:
        BundleError: a field is missing or is not a pair of histograms of one length.
    """
    lo, hi, positive, negative = _histograms(calibration)
    centres = lo + (np.arange(len(positive)) + 0.5) * (hi - lo) / len(positive)
    # A bin that no wrong place reached still has about one chance in the sample's size.
    p, n = _density(centres, positive) + 1e-9, _density(centres, negative) + 0.5 / max(negative.sum(), 1.0)
    table = np.interp(np.linspace(lo, hi, LEVELS), centres, np.log(p) - np.log(n))
    return Likelihood(lo, hi, _increasing(table))


def parametric(calibration: Mapping[str, Any]) -> Likelihood:
    """Log-ratio of two Gaussians fitted to z: the wrong places' (0, 1 by construction) and the right ones'."""
    lo, hi, positive, negative = _histograms(calibration)
    centres = lo + (np.arange(len(positive)) + 0.5) * (hi - lo) / len(positive)
    mean, std = _moments(centres, positive)
    mean_n, std_n = _moments(centres, negative)
    z = np.linspace(lo, hi, LEVELS)
    log_ratio = np.log(std_n / std) - 0.5 * ((z - mean) / std) ** 2 + 0.5 * ((z - mean_n) / std_n) ** 2
    return Likelihood(lo, hi, _increasing(log_ratio))


ESTIMATES = {"softmax": softmax, "kernel_density": kernel_density, "parametric": parametric}


def _histograms(calibration: Mapping[str, Any]) -> tuple[float, float, Any, Any]:
    try:
        z = calibration["z"]
        lo, hi = float(z["lo"]), float(z["hi"])
        positive = np.asarray(z["positive"], np.float64)
        negative = np.asarray(z["negative"], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise _uncalibrated(error) from error
    if positive.shape != negative.shape or positive.ndim != 1 or len(positive) < 8 or not hi > lo:
        raise BundleError(f"the bundle's calibration histograms are {positive.shape} and {negative.shape}")
    return lo, hi, positive, negative


def _uncalibrated(error: Exception) -> BundleError:
    return BundleError(
        f"the bundle has no usable calibration of scores ({error!r})",
        "export the bundle from a checkpoint that was calibrated by `kittiwake train localization`",
    )


def _density(centres: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Shares of a histogram's bins, smoothed by a Gaussian of Silverman's bandwidth, 1.06 std n^(-1/5)."""
    _, std = _moments(centres, counts)
    bandwidth = 1.06 * std * counts.sum() ** -0.2
    kernel = np.exp(-0.5 * ((centres[:, None] - centres) / bandwidth) ** 2)
    shares: npt.NDArray[np.float64] = kernel / kernel.sum(axis=0) @ (counts / counts.sum())
    return shares


def _moments(x: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> tuple[float, float]:
    mean = float(np.average(x, weights=weight))
    return mean, float(np.sqrt(np.average((x - mean) ** 2, weights=weight)))


def _increasing(log_ratio: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A better score never argues against a place: outside the data's range a fit may say so."""
    return np.asarray(np.maximum.accumulate(log_ratio), np.float64)
