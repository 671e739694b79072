"""Finds where a latent has what its scene names: positions and sizes, of which captions do not speak, are moved until the
scene's picture has the latent, by least squares. Plain numpy."""

import copy

import numpy as np

from training.latents import tokens
from training.world import draw
from training.world.names import INNER_RADIUS, OUTER_RADIUS, SIZES

REACH, SLACK = 3.0, 0.07  # how far positions, in pixels, and radii, as a share, may be from those that the words mean
WIDTHS = (3.0, 2.0, 1.2, 0.7, 0.7, 0.7)  # of the differences, in pixels


def _handles(scene):
    """The free numbers of a scene: [(owner, key, meant, reach)]."""
    if scene["kind"] == "person":
        return [(scene, "x", 64.0, 2 * REACH), (scene, "y", 72.0, 2 * REACH)]
    out = []
    for s in scene["shapes"]:
        x, y = draw.cell_centre(s["place"])
        r = SIZES.get(s["size"], OUTER_RADIUS)
        if scene["layout"] == "inside" and s["size"] != "huge":
            r = INNER_RADIUS
        out += [(s, "x", x, REACH), (s, "y", y, REACH), (s, "r", r, SLACK * r)]
    return out


def fit(scene, latent, mean, var):
    """The scene moved to where `latent` [64, 128] has it, by Gauss-Newton steps with halving, whose slopes are taken over ever
    smaller differences -> (scene, held): held is the smallest share, over its shapes, of what drawing the shape changes that
    the latent holds too (1 for people)."""
    scene = copy.deepcopy(scene)
    free = _handles(scene)
    for owner, key, meant, _ in free:
        owner[key] = float(meant)

    def seen(sc):
        return tokens(draw.draw_float(sc)[None], mean, var)[0].astype(np.float64).ravel()

    goal = latent.astype(np.float64).ravel()
    at = seen(scene)
    for width in WIDTHS:
        slopes = []
        for owner, key, _, _ in free:
            was, ends = owner[key], []
            for side in (0.5, -0.5):
                owner[key] = was + side * width
                ends.append(seen(scene))
            slopes.append((ends[0] - ends[1]) / width)
            owner[key] = was
        j = np.stack(slopes, 1)
        move = np.linalg.solve(j.T @ j + 1e-3 * np.eye(len(free)), j.T @ (goal - at))
        was, error = [o[k] for o, k, _, _ in free], np.square(goal - at).sum()
        for scale in (1.0, 0.5, 0.25, 0.0):
            for (owner, key, meant, reach), w, m in zip(free, was, move):
                owner[key] = float(np.clip(w + scale * m, meant - reach, meant + reach))
            at = seen(scene)
            if scale == 0 or np.square(goal - at).sum() < error:
                break
        if width == WIDTHS[-1] and scale * np.abs(move).max() < 0.1:
            break
    if scene["kind"] == "person":
        return scene, 1.0
    held = 1.0
    for k in range(len(scene["shapes"])):
        bare = dict(scene, shapes=scene["shapes"][:k] + scene["shapes"][k + 1:])
        mark = at - seen(bare)
        miss = (goal - at)[mark != 0]
        held = min(held, 1 - float(np.square(miss).sum() / np.square(mark).sum()))
    return scene, held
