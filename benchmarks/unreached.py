"""Why bars are not reached, as far as it is known; it stands in the results, beside the figures that miss them."""

from __future__ import annotations

UNREACHED = {
    "nd160.updates": (
        "Most of a search is frames that say nothing: fields of 800 m that bear another crop after five years and "
        "more. A flight takes 21 nats, an average frame told 2.5 in gray. What helped is colour (13.0 updates at 160 "
        "m, before 15.8). Tried besides: a model tuned on the area's other half (10.2), 72 headings, other "
        "likelihoods (kernel density, parametric, mixtures), other slopes and tempering, descriptors whitened by the "
        "map's own, and 17,000 features a view in place of 64, which say no more of its place: "
        "docs/localization-training.md, 'Where the updates go'. The rule by which convergence is declared costs 2 to "
        "4 updates more: it asks for 3 nats of two frames or more that come after the belief has claimed a place; "
        "without such a rule 9 of 400 flights over ground that is not on the map were believed."
    ),
    "nd320.updates": "As nd160.updates. A disc of 320 m tells twice as much, but only 39 % of it is new after 100 m.",
    "nd100.converged": (
        "95.2 % until what speaks against a place had to be made good before evidence for it counts, which stops one "
        "flight in 460 from being believed off the map and one in 800 carried off: docs/localization-training.md, 'In "
        "colour'. The rest is nd160.updates."
    ),
    "nd100.updates": "As nd160.updates.",
    "nd160.error_m": (
        "Once found, a frame's best place within 60 m is less than 10 m off in a quarter of the frames, whoever is "
        "asked: folded gradients 25 %, the gray descriptor's scores 24 %, a small learned matcher 28 %. The mixture "
        "of the first two ships. A larger learned matcher finds 41 % on other frames where the mixture finds 35, "
        "which is 7.6 m in place of 8.6 in flight, beside it. The imagery has 5 m a pixel and its own years lie 1 m "
        "apart."
    ),
    "nd160.rough.error_m": "As nd160.error_m.",
    "height.unknown.updates": "As nd160.updates; 12.0 on the first 100 flights before nd100.converged's rule.",
    "nd160.tuned.updates": (
        "As nd160.updates: it knows the country in these years, and still meets frames that say nothing."
    ),
    "baviaans.updates": (
        "The place is found sooner than it is declared: convergence asks for 3 nats of two frames or more that come "
        "after the belief has claimed it, each counted by what is new in it. Rules that declare earlier believe "
        "flights off the map: docs/localization-training.md, 'How sure it is'. At 320 m 39 % of a view is new after "
        "100 m."
    ),
    "snow.updates": "As baviaans.updates.",
    "snow.error_m": (
        "Snow hides the edges that the map's pixels are matched by, and the published radius says so: 97 % inside. "
        "What was tried below the grid: nd160.error_m."
    ),
    "realsnow.recall": (
        "A view of 160 m is 16 pixels of forest across; correlated gradients find more of them (17.7 %). Of 72 "
        "queries of summer over another summer of the same place 14 % are right; of snow over summer 4 %, with dark "
        "and bright exchanged 1 %, with views of 320 m 1 % and of 480 m 24 %. No real snow is in the training data: "
        "this place, kept for testing, is the only one there is."
    ),
}
