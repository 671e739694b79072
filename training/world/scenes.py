"""Scenes: structured records of everything that a picture shows, drawn at random or held out by rule.

A scene is a plain dict. Shapes: {"kind": "shapes", "layout", "background", "shapes": [{shape, colour, size, place, x, y,
r}]}; layout is one of single, pair, row, column, inside, places. People: {"kind": "person", pose, hair, shirt, trousers,
ground, x, y}. Positions carry a little jitter that no caption speaks of.
"""

from .draw import cell_centre
from .names import (BACKGROUNDS, COLOURS, GROUNDS, HAIR, INNER_RADIUS, OUTER_RADIUS, OUTER_SHAPES, POSES, SHAPES, SHIRTS,
                    SIZES, TINTS, TROUSERS)

_COLOUR = list(COLOURS)
_TINT = list(TINTS)
_HAIR, _SHIRT, _TROUSERS, _GROUND = list(HAIR), list(SHIRTS), list(TROUSERS), list(GROUNDS)
_SIZE = list(SIZES)


def relations(scene):
    """The relations that a caption of this scene states: a list of (i, relation, j) over scene["shapes"]."""
    lay = scene.get("layout")
    if lay == "inside":
        return [(1, "inside", 0)]
    if lay == "pair":
        return [(0, scene["relation"], 1)]
    if lay == "row":
        return [(0, "left of", 1), (1, "left of", 2)]
    if lay == "column":
        return [(0, "above", 1), (1, "above", 2)]
    return []


def held_pair(shape, colour):
    return (SHAPES.index(shape) * 5 + _COLOUR.index(colour)) % 12 == 7


def held_relation(a, rel, b):
    k = {"left of": 0, "right of": 0, "above": 1, "below": 1, "inside": 2}[rel]
    if rel in ("right of", "below"):
        a, b = b, a
    return (SHAPES.index(a) * 3 + SHAPES.index(b) * 5 + k) % 11 == 4


def held_person(pose, hair, shirt, trousers):
    return ((POSES.index(pose) * 3 + _SHIRT.index(shirt)) % 8 == 5
            or (_HAIR.index(hair) + _TROUSERS.index(trousers)) % 6 == 3)


def held_out(scene):
    """Whether the scene holds a combination that training never shows: one colour of each shape, one shirt colour of
    each pose, one trouser colour of each hair colour, and about one in eleven ordered pairs of shapes a relation."""
    if scene["kind"] == "person":
        return held_person(scene["pose"], scene["hair"], scene["shirt"], scene["trousers"])
    s = scene["shapes"]
    return (any(held_pair(a["shape"], a["colour"]) for a in s)
            or any(held_relation(s[i]["shape"], r, s[j]["shape"]) for i, r, j in relations(scene)))


def random_background(rng):
    kind = BACKGROUNDS[rng.choice(4, p=[0.55, 0.15, 0.15, 0.15])]
    if kind == "plain":
        return {"type": kind, "colours": [_TINT[rng.integers(7)]]}
    a, b = rng.choice(7, 2, replace=False)
    return {"type": kind, "colours": [_TINT[a], _TINT[b]]}


def place_shape(rng, shape, colour, size, place):
    x, y = cell_centre(place)
    jx, jy, jr = rng.uniform(-1, 1, 3)
    return {"shape": shape, "colour": colour, "size": size, "place": int(place), "x": float(x + 2 * jx),
            "y": float(y + 2 * jy), "r": float(SIZES[size] * (1 + 0.04 * jr))}


def random_shape(rng, place):
    return place_shape(rng, SHAPES[rng.integers(8)], _COLOUR[rng.integers(12)], _SIZE[rng.integers(3)], place)


def distinct(shapes):
    """No two shapes of a picture share a colour: so that words can name them."""
    return len({s["colour"] for s in shapes}) == len(shapes)


def _shapes_once(rng, layout):
    bg = random_background(rng)
    sc = {"kind": "shapes", "layout": layout, "background": bg}
    if layout == "single":
        sc["shapes"] = [random_shape(rng, rng.integers(9))]
    elif layout == "pair":
        rel = ["left of", "right of", "above", "below"][rng.integers(4)]
        a, b = {"left of": (3, 5), "right of": (5, 3), "above": (1, 7), "below": (7, 1)}[rel]
        sc["relation"] = rel
        sc["shapes"] = [random_shape(rng, a), random_shape(rng, b)]
    elif layout in ("row", "column"):
        sc["shapes"] = [random_shape(rng, p) for p in ((3, 4, 5) if layout == "row" else (1, 4, 7))]
    elif layout == "inside":
        jx, jy, j1, j2 = rng.uniform(-1, 1, 4)
        outer = {"shape": OUTER_SHAPES[rng.integers(4)], "colour": _COLOUR[rng.integers(12)], "size": "huge", "place": 4,
                 "x": float(64 + 2 * jx), "y": float(64 + 2 * jy), "r": float(OUTER_RADIUS * (1 + 0.03 * j1))}
        inner = {"shape": SHAPES[rng.integers(8)], "colour": _COLOUR[rng.integers(12)], "size": "medium", "place": 4,
                 "x": outer["x"], "y": outer["y"], "r": float(INNER_RADIUS * (1 + 0.04 * j2))}
        sc["shapes"] = [outer, inner]
    else:
        n = 2 if rng.random() < 0.8 else 3
        sc["shapes"] = [random_shape(rng, p) for p in rng.choice(9, n, replace=False)]
    return sc


LAYOUTS = (["single", "pair", "row", "column", "inside", "places"], [0.34, 0.27, 0.07, 0.05, 0.09, 0.18])


def random_shapes(rng, held=False, layout=None):
    """A shapes scene, with a held-out combination if `held`, else without one."""
    lay = layout or LAYOUTS[0][rng.choice(6, p=LAYOUTS[1])]
    while True:
        sc = _shapes_once(rng, lay)
        if distinct(sc["shapes"]) and held_out(sc) == held:
            return sc


def random_person(rng, held=False, **fixed):
    """A person scene; keyword arguments fix facts. Gives up the held-out wish only where the fixed facts forbid it."""
    for _ in range(200):
        sc = {"kind": "person", "pose": POSES[rng.integers(len(POSES))], "hair": _HAIR[rng.integers(6)],
              "shirt": _SHIRT[rng.integers(8)], "trousers": _TROUSERS[rng.integers(6)], "ground": _GROUND[rng.integers(4)],
              "x": float(64 + rng.uniform(-3, 3)), "y": float(72 + rng.uniform(-2, 2))}
        sc.update(fixed)
        if held_out(sc) == held:
            return sc
    return None


def random_scene(rng, held=False):
    return random_person(rng, held) if rng.random() < 0.42 else random_shapes(rng, held)
