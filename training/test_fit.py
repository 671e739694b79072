"""The fit finds where a latent has its shapes, and says what of them it does not have."""

import copy

import numpy as np
import pytest

from training.fit import REACH, fit
from training.latents import normalisation, tokens
from training.world import draw, scenes

MEAN, VAR = normalisation()


def latent(scene, noise=0.0, seed=0):
    x = tokens(draw.draw(scene)[None], MEAN, VAR)[0]
    return x + noise * np.random.default_rng(seed).standard_normal(x.shape)


def distance(a, b):
    if a["kind"] == "person":
        return max(abs(a[k] - b[k]) for k in "xy")
    return max(abs(s[k] - t[k]) for s, t in zip(a["shapes"], b["shapes"]) for k in "xyr")


@pytest.mark.parametrize("layout", ["single", "pair", "row", "column", "inside", "places", "person"])
def test_finds_positions_and_sizes(layout):
    rng = np.random.default_rng(5)
    for seed in range(3):
        scene = scenes.random_person(rng) if layout == "person" else scenes.random_shapes(rng, layout=layout)
        found, held = fit(scene, latent(scene), MEAN, VAR)
        assert distance(found, scene) < 0.25 and held > 0.98
        found, held = fit(scene, latent(scene, 0.1, seed), MEAN, VAR)
        assert distance(found, scene) < 0.6 and held > 0.4


def test_leaves_the_scene_alone_and_stays_near():
    scene = scenes.random_shapes(np.random.default_rng(6), layout="pair")
    far = copy.deepcopy(scene)
    far["shapes"][0]["x"] += 3 * REACH
    before = copy.deepcopy(scene)
    found, _ = fit(scene, latent(far), MEAN, VAR)
    assert scene == before
    for s in found["shapes"]:
        x, y = draw.cell_centre(s["place"])
        assert abs(s["x"] - x) <= REACH and abs(s["y"] - y) <= REACH


@pytest.mark.parametrize("layout", ["pair", "row", "inside"])
def test_says_that_a_shape_is_missing(layout):
    rng = np.random.default_rng(7)
    for _ in range(4):
        scene = scenes.random_shapes(rng, layout=layout)
        fewer = dict(scene, shapes=scene["shapes"][:-1])
        assert fit(scene, latent(fewer), MEAN, VAR)[1] < 0.1
