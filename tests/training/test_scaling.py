"""bench/scaling.py finds the law that data were made by."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from bench.scaling import Run, fit, fit_line, hull, page

FLOPS = np.geomspace(1e12, 1e15, 8)


def test_a_law_with_a_floor_is_found_exactly():
    law = fit(FLOPS, 2.0 + 1.5 * (FLOPS / np.exp(np.log(FLOPS).mean())) ** -0.3)
    assert law[:3] == pytest.approx((2.0, 1.5, 0.3), rel=1e-6)


def test_a_straight_line_is_found_exactly():
    law = fit_line(FLOPS, 7.0 * FLOPS**-0.05)
    assert law.c == pytest.approx(0.05)
    assert law(FLOPS) == pytest.approx(7.0 * FLOPS**-0.05)


@pytest.mark.thorough
def test_standard_errors_are_those_of_repeated_experiments():
    rng, truth = np.random.default_rng(0), 2.0 + 1.5 * (FLOPS / np.exp(np.log(FLOPS).mean())) ** -0.3
    for fitted, field in ((fit, "a"), (fit, "c"), (fit_line, "c")):
        laws = [fitted(FLOPS, truth + rng.normal(0, 0.005, len(FLOPS))) for _ in range(60)]
        if fitted is fit_line:
            laws = [fitted(FLOPS, 7.0 * FLOPS**-0.05 * np.exp(rng.normal(0, 0.005, len(FLOPS)))) for _ in range(60)]
        found = np.std([getattr(law, field) for law in laws])
        assert np.sqrt(np.mean([law.errors["abc".index(field)] ** 2 for law in laws])) == pytest.approx(found, rel=0.25)


def test_the_hull_holds_what_no_run_beats_with_as_little_compute():
    rng = np.random.default_rng(1)
    runs = [Run(str(i), *values) for i, values in enumerate(rng.random((50, 2)) + 1)]
    slow = [r for r in runs if not any(o.flops <= r.flops and o.loss <= r.loss and o is not r for o in runs)]
    assert hull(runs) == sorted(slow, key=lambda run: run.flops)


def test_the_page_draws_every_run_and_law():
    runs = [Run(f"run <{i}>", flops, 5 * flops**-0.05) for i, flops in enumerate(FLOPS)]
    text = page(runs, hull(runs), {"line": fit_line(*np.array([run[1:] for run in runs]).T)})
    drawing = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    assert len(drawing.findall("circle")) == len(runs)
    assert len(drawing.findall("path")) == 1
