"""The localizer: frames and odometry in, fixes out, from no initial pose.

    localizer = Localizer(index, engine)
    for step, patch, time_s in flight:
        fix = localizer.update(step, patch, time_s=time_s)

It never raises over a frame that shows nothing: it carries the belief forward, says why, and its radius grows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..engines.base import Engine
from ..engines.select import open_engine
from ..errors import BundleError, FrameError
from .belief import Float32, Moments
from .descriptor import Descriptor
from .filter import FilterConfig, PointMassFilter
from .flight_log import OdometryStep
from .likelihood import ESTIMATES
from .map_index import MapIndex
from .matcher import Matcher
from .news import News
from .outputs import Fix, Source, State, radius_m


@dataclass(frozen=True)
class LocalizerConfig:
    """When a belief becomes a fix, and when it stops being one.

    Attributes:
        likelihood: how scores become ratios: ``softmax``, ``kernel_density`` or ``parametric``.
        converged_std_m: largest position spread (root of the covariance's trace) when convergence is declared.
        converged_elsewhere: largest probability of being elsewhere then.
        claim_std_m: position spread below which the belief claims one place. Of millions of states some fit a few
            frames by chance, so the frames that chose a place say little for it; those that come after, do.
        converged_evidence: least evidence of these together (nats) when convergence is declared: Page's cumulative sum
            (Biometrika 1954), but from below zero, where what speaks against a place has to be made good first.
        frame_evidence: the most of it that one frame may give: one fits some place by chance, two hardly the same.
            The most, too, that there may be to make good.
        claim_jump_std: how far a frame may move a claim, in standard deviations of what it leaves and of the motion
            before it; one that moves it farther has chosen the place anew.
        doubtful_std_m: position spread above which a belief that was matched is lost: no fix is published, but what it
            holds is still the best that is known. A fix that is only carried forward may spread more, up to
            `max_radius_m`.
        doubtful_heading_std_rad: deviation of the heading above which it is neither declared nor, once matched, kept: a
            belief that slides along a field's edge turns before it spreads.
        doubtful_elsewhere: probability of being elsewhere above which it is lost, likewise.
        doubtful_evidence: evidence against the place (nats) at which it is lost, likewise: Page's sum again, of what
            frames since the declaration say the other way. As much must speak for a place before it is declared anew.
        lost_elsewhere: probability of being elsewhere above which that is given up, and all of the map searched again.
        max_radius_m: 95 % radius above which a fix that is only carried forward is lost.
        least_move: share of the footprint to move before a view counts as news; hover sharpens nothing.
        filter: what the filter assumes.
    """

    likelihood: str = "softmax"
    converged_std_m: float = 20.0
    converged_elsewhere: float = 0.01
    claim_std_m: float = 80.0
    converged_evidence: float = 3.0
    frame_evidence: float = 2.0
    claim_jump_std: float = 2.5
    doubtful_std_m: float = 25.0
    doubtful_heading_std_rad: float = math.radians(3.75)
    doubtful_elsewhere: float = 0.03
    doubtful_evidence: float = 4.0
    lost_elsewhere: float = 0.5
    max_radius_m: float = 400.0
    least_move: float = 0.25
    filter: FilterConfig = field(default_factory=FilterConfig)


class Localizer:
    """Finds a vehicle on a map index.

    Args:
        index: an open `MapIndex`.
        model: the open engine of the bundle that made the index, or that bundle (it is then opened here).
        config: when to believe.

    Raises:
        MapError: the index was made by another bundle.
        BundleError: the bundle has no calibration, or `config.likelihood` names no estimate.
    """

    def __init__(self, index: MapIndex, model: Engine | Bundle, config: LocalizerConfig | None = None) -> None:
        from .map_build import check_bundle

        self.config = config or LocalizerConfig()
        self.index = index
        engine = open_engine(model) if isinstance(model, Bundle) else model
        check_bundle(index, engine.bundle)
        if self.config.likelihood not in ESTIMATES:
            raise BundleError(f"no likelihood {self.config.likelihood!r}", f"one of {', '.join(ESTIMATES)}")
        likelihood = ESTIMATES[self.config.likelihood](engine.bundle.calibration)
        self.filter = PointMassFilter(Matcher(index, Descriptor(engine), likelihood), self.config.filter)
        self._start()

    def _start(self) -> None:
        self.state: State = "searching"
        self._evidence_for = self._evidence_against = 0.0
        self._last: Moments | None = None
        self._news = News(self.filter.matcher.descriptor, self.index.footprint_m, self.config.least_move)
        self._matched_s = -math.inf
        self._since_match_m = math.inf
        self._time_s = -math.inf

    def reset(self) -> None:
        """Start again from nothing."""
        self.filter.reset()
        self._start()

    def set_prior(self, lat_deg: float, lon_deg: float, radius_m: float) -> None:
        """Start from a soft prior; a wrong one only delays.

        Args:
            lat_deg, lon_deg: WGS84.
            radius_m: that holds 95 %.
        """
        east, north = self.index.grid.from_wgs84(lat_deg, lon_deg)
        self.filter.set_prior(np.array([float(east), float(north)]), radius_m / 2.4477)
        self._start()

    def set_heading(self, yaw_deg: float, std_deg: float = 10.0) -> None:
        """A soft prior of the heading, from a compass that is believed: nine tenths of the mass turn to it.

        Args:
            yaw_deg: of the forward axis, clockwise from true north.
            std_deg: its standard deviation.
        """
        mean = self.filter.belief.moments().mean
        heading = float(self.index.grid.heading_rad(yaw_deg, mean[0], mean[1]))
        self.filter.turn_to(heading, math.radians(std_deg))

    def update(
        self,
        step: OdometryStep | None,
        patch: Float32 | Sequence[Float32] | None,
        *,
        time_s: float,
        lever: tuple[float, float] = (0.0, 0.0),
        reason: str = "",
    ) -> Fix:
        """One frame.

        Args:
            step: odometry since the last update; None for the first frame.
            patch: ``(33, 33) float32`` grey, or ``(33, 33, 3)`` red, green and blue, in [0, 1], up is the vehicle's
                forward axis, NaN unseen; several, one for each assumed scale, when the height is not known; None when
                there is no usable view.
            time_s: the image's time; strictly increasing. A Unix time tells how old the map's imagery is: the
                older, the less it is trusted.
            lever: forward and left metres from the vehicle to the patch's centre.
            reason: why there is no patch.

        Returns:
            The fix at this frame; look at its `state` before its position.

        Raises:
            FrameError: the odometry is not finite, or the time does not come after the last frame's.
        """
        started = time.perf_counter()
        if not time_s > self._time_s:
            raise FrameError(
                f"a frame at {time_s} s does not come after {self._time_s} s",
                "hand frames over in order of time, each once; reset() starts another flight",
            )
        stages: dict[str, float] = {}
        if step is not None:
            self._predict(step)
        if self._time_s == -math.inf:
            self.filter.matcher.dense.set_age(self.index.age_years(time_s))
        self._time_s = time_s
        stages["predict"] = 1e3 * (time.perf_counter() - started)
        patches = [] if patch is None else [patch] if isinstance(patch, np.ndarray) else list(patch)
        evidence, why = self._weigh(patches, lever, reason)
        matched = math.isfinite(evidence)
        stages["match"] = 1e3 * (time.perf_counter() - started) - stages["predict"]
        moments = self.filter.adapt()
        if matched:
            self._note(evidence, step, moments)
        self._last = moments
        supported = matched and evidence > 0
        if supported:
            self._matched_s, self._since_match_m = time_s, 0.0
        covariance = self._published(moments)
        self._decide(moments, covariance, matched)
        stages["state"] = 1e3 * (time.perf_counter() - started) - sum(stages.values())
        source: Source = "map_matched" if supported else "propagated"
        return Fix(
            time_s=time_s,
            easting_m=float(moments.mean[0]),
            northing_m=float(moments.mean[1]),
            heading_rad=moments.heading_rad,
            covariance=covariance,
            position_std_m=moments.std_m,
            heading_std_rad=moments.heading_std_rad,
            state=self.state,
            source=source,
            age_s=time_s - self._matched_s,
            distance_since_match_m=self._since_match_m,
            elsewhere=self.filter.elsewhere,
            evidence=evidence,
            reason=self._reason(moments, why),
            grid=self.index.grid,
            stages_ms=stages,
        )

    def _predict(self, step: OdometryStep) -> None:
        values = (step.forward_m, step.left_m, step.turn_rad, step.sigma_m, step.sigma_turn_rad)
        if not all(math.isfinite(value) for value in values):
            raise FrameError(f"the odometry step is not finite: {step}", "leave the step out, or mend its source")
        self.filter.predict(step)
        self._news.move(step)
        self._since_match_m += math.hypot(step.forward_m, step.left_m)

    def _weigh(self, patches: list[Float32], lever: tuple[float, float], reason: str) -> tuple[float, str]:
        """Weigh a view if it shows new ground; returns its evidence (NaN if not) and why not."""
        if not patches:
            return math.nan, reason or "no usable view"
        new_ground = self._news.new_ground()
        if new_ground <= 0:
            return math.nan, "hovering: the view is not new"
        if any(not np.isfinite(patch).any() for patch in patches):
            return math.nan, reason or "the view shows no ground"
        exponent = new_ground * self._news.see(patches[len(patches) // 2])
        return self.filter.weigh(patches, lever, exponent), ""

    def _note(self, evidence: float, step: OdometryStep | None, moments: Moments) -> None:
        """Add a frame's evidence to what speaks for the place that the belief had claimed before the frame came."""
        news = min(evidence, self.config.frame_evidence)
        owed = -self.config.frame_evidence
        self._evidence_for = max(self._evidence_for, owed) + news if self._claimed(step, moments) else 0.0
        self._evidence_against = max(self._evidence_against, 0.0) - news

    def _claimed(self, step: OdometryStep | None, moments: Moments) -> bool:
        """Whether the place that the belief is at was its claim before the frame."""
        if self._last is None or self._last.std_m >= self.config.claim_std_m:
            return False
        forward, left = (step.forward_m, step.left_m) if step else (0.0, 0.0)
        c, s = math.cos(self._last.heading_rad), math.sin(self._last.heading_rad)
        expected = self._last.mean + np.array([c * forward - s * left, s * forward + c * left])
        across_m = math.hypot(forward, left) * self._last.heading_std_rad
        return math.dist(expected, moments.mean) < self.config.claim_jump_std * math.hypot(moments.std_m, across_m)

    def _published(self, moments: Moments) -> npt.NDArray[np.float64]:
        """The belief's covariance and, as a bias that no averaging removes, the map's own error."""
        return np.asarray(moments.covariance + np.eye(2) * self.index.georef_sigma_m**2, np.float64)

    def _decide(self, moments: Moments, covariance: npt.NDArray[np.float64], matched: bool) -> None:
        config, elsewhere = self.config, self.filter.elsewhere
        if self.state == "converged":
            far = radius_m(covariance, 0.95) > config.max_radius_m
            if not far and not self._is_doubtful(moments, matched):
                return
            self.state, self._evidence_for = "lost", 0.0
            if far or elsewhere > config.lost_elsewhere:
                self._search_again()
            return
        needed = config.doubtful_evidence if self.state == "lost" else config.converged_evidence
        agreed = self._evidence_for >= needed and elsewhere < config.converged_elsewhere
        turned = moments.heading_std_rad >= config.doubtful_heading_std_rad
        if agreed and moments.std_m < config.converged_std_m and not turned:
            self.state, self._evidence_against = "converged", 0.0
        elif not self.filter.covers_map and elsewhere > config.lost_elsewhere:
            self._search_again()

    def _is_doubtful(self, moments: Moments, matched: bool) -> bool:
        config = self.config
        turned = moments.heading_std_rad >= config.doubtful_heading_std_rad
        scattered = matched and (moments.std_m >= config.doubtful_std_m or turned)
        refuted = self._evidence_against >= config.doubtful_evidence
        return scattered or refuted or self.filter.elsewhere > config.doubtful_elsewhere

    def _search_again(self) -> None:
        self.filter.widen()
        self._evidence_for, self._evidence_against, self._last = 0.0, 0.0, None

    def _reason(self, moments: Moments, why: str) -> str:
        if self.state == "converged":
            return why
        lead = "lost: " if self.state == "lost" else ""
        if why:
            return lead + why
        if self.filter.elsewhere > self.config.lost_elsewhere:
            return lead + "what the camera sees is not on this map"
        doubt = self.config.doubtful_elsewhere if self.state == "lost" else self.config.filter.off_map
        if self.filter.elsewhere > doubt:
            return lead + f"what the camera sees fits here badly (elsewhere: {100 * self.filter.elsewhere:.0f} %)"
        if self.state == "lost" and self._evidence_against >= self.config.doubtful_evidence:
            return lead + "the last frames speak against this place"
        if moments.std_m >= self.config.claim_std_m:
            return lead + f"several places fit (spread {moments.std_m:.0f} m)"
        if moments.std_m >= self.config.converged_std_m:
            return lead + f"the place is known to {moments.std_m:.0f} m only"
        if moments.heading_std_rad >= self.config.doubtful_heading_std_rad:
            return lead + f"the heading is known to {math.degrees(moments.heading_std_rad):.1f} degrees only"
        return lead + "waiting for more frames to agree"
