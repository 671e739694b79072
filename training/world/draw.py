"""Draws a scene: a structured record in, a 128 x 128 RGB picture out (uint8 [128, 128, 3]).

Shapes are tested for membership on a 4 x 4 grid inside each pixel; people are unions of capsules whose signed distance
gives the coverage of a pixel. Everything is painted back to front, in plain numpy. Same scene, same bytes.
"""

import math

import numpy as np

from .names import (COLOURS, CELL, GROUNDS, HAIR, HORIZON, SHIRTS, SHOE, SKIN, STRIPE, TINTS, TROUSERS)

SIDE = 128
_SS = 4
_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + 0.5


def _inside(shape, x, y):
    """Whether points (x, y), in units of the shape's radius with y downwards, lie inside `shape`."""
    if shape == "circle":
        return x * x + y * y <= 1
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= 0.88
    if shape == "diamond":
        return np.abs(x) * 1.25 + np.abs(y) <= 1.12
    if shape == "triangle":
        return (y <= 0.85) & (np.abs(x) <= (y + 1.05) * 0.58)
    if shape == "cross":
        return (np.maximum(np.abs(x), np.abs(y)) <= 1) & (np.minimum(np.abs(x), np.abs(y)) <= 0.34)
    if shape == "ring":
        d = x * x + y * y
        return (d <= 1) & (d >= 0.58 * 0.58)
    if shape == "heart":
        u, v = x * 1.15, -y * 1.2 + 0.12
        q = u * u + v * v - 1
        return (q * q * q - u * u * v * v * v <= 0) & (np.abs(x) <= 1.05)
    if shape == "star":
        a = np.arctan2(x, -y + 0.05)
        a = np.abs((a + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)  # 0 at a tip, pi/5 at a notch
        d = np.hypot(x, y - 0.05)
        # The edge runs from the tip (1.12, angle 0) to the notch (0.48, angle pi/5).
        tx, ty = 1.12, 0.0
        nx, ny = 0.48 * math.cos(math.pi / 5), 0.48 * math.sin(math.pi / 5)
        px, py = d * np.cos(a), d * np.sin(a)
        return (nx - tx) * (py - ty) - (ny - ty) * (px - tx) >= 0
    raise ValueError(f"unknown shape {shape!r}")


def shape_coverage(shape, cx, cy, radius):
    """Coverage of a shape in its bounding box: (y0, x0, array of [0, 1])."""
    reach = radius * 1.2 + 1
    x0, x1 = max(0, int(cx - reach)), min(SIDE, int(cx + reach) + 1)
    y0, y1 = max(0, int(cy - reach)), min(SIDE, int(cy + reach) + 1)
    xs = (np.arange((x1 - x0) * _SS, dtype=np.float32) + 0.5) / _SS + x0
    ys = (np.arange((y1 - y0) * _SS, dtype=np.float32) + 0.5) / _SS + y0
    x, y = np.meshgrid((xs - cx) / radius, (ys - cy) / radius)
    m = _inside(shape, x, y).astype(np.float32)
    return y0, x0, m.reshape(y1 - y0, _SS, x1 - x0, _SS).mean((1, 3))


def _paint(img, y0, x0, cover, colour):
    h, w = cover.shape
    box = img[y0:y0 + h, x0:x0 + w]
    box += cover[..., None] * (np.asarray(colour, np.float32) - box)


def background(spec):
    """spec: {"type", "colours": [tint] or [tint, tint]} -> float32 [128, 128, 3]."""
    a = np.asarray(TINTS[spec["colours"][0]], np.float32)
    img = np.empty((SIDE, SIDE, 3), np.float32)
    if spec["type"] == "plain":
        img[:] = a
        return img
    b = np.asarray(TINTS[spec["colours"][1]], np.float32)
    if spec["type"] == "gradient":
        t = (np.arange(SIDE, dtype=np.float32) / (SIDE - 1))[:, None, None]
        img[:] = a + t * (b - a)
        return img
    band = (np.arange(SIDE) // STRIPE % 2).astype(np.float32)
    band = band[None, :, None] if spec["type"] == "vertical stripes" else band[:, None, None]
    img[:] = a + band * (b - a)
    return img


# A pose: torso lean, hip shift (dx, dy), then (upper, lower) angles of left arm, right arm, left leg, right leg.
# Angles are degrees from straight down, positive towards the picture's right.
_POSE = {
    "standing": (0, (0, 0), (-14, -8), (14, 8), (-7, -3), (7, 3)),
    "waving": (0, (0, 0), (-14, -8), (128, 172), (-7, -3), (7, 3)),
    "arms raised": (0, (0, 0), (-150, -172), (150, 172), (-7, -3), (7, 3)),
    "arms spread": (0, (0, 0), (-90, -90), (90, 90), (-7, -3), (7, 3)),
    "hands on hips": (0, (0, 0), (-58, 50), (58, -50), (-10, -6), (10, 6)),
    "running": (16, (-2, -2), (-55, 20), (60, 140), (-40, -88), (64, -6)),
    "kicking": (-14, (-6, 0), (-70, -100), (50, 20), (-6, -2), (80, 84)),
    "sitting": (-8, (-14, 24), (-28, -20), (30, 50), (72, 88), (84, 88)),
    "kneeling": (4, (0, 15), (35, 80), (48, 95), (-8, -86), (70, 2)),
    "star jump": (0, (0, -8), (-128, -128), (128, 128), (-46, -46), (46, 46)),
    "pointing": (0, (0, 0), (-14, -8), (94, 94), (-7, -3), (7, 3)),
    "squatting": (0, (0, 16), (-62, -118), (62, 118), (-78, 12), (78, -12)),
    "bowing": (68, (-12, 0), (8, 0), (20, 8), (-9, -5), (4, 3)),
    "dancing": (-6, (2, 0), (-142, -160), (62, -52), (-58, 18), (4, 2)),
}
_TORSO, _ARM, _LEG = 25.0, 15.0, 18.5


def _step(p, angle, length):
    a = math.radians(angle)
    return (p[0] + math.sin(a) * length, p[1] + math.cos(a) * length)


def person_parts(pose, x, y):
    """The capsules of a person whose hip stands at (x, y) before the pose's shift, back to front:
    a list of (part, p, q, radius), part one of hair, skin, shirt, trousers, shoe, eye."""
    lean, shift, arm_l, arm_r, leg_l, leg_r = _POSE[pose]
    hip = (x + shift[0], y + shift[1])
    up = 180 - lean  # direction of the spine from the hip, as an angle from straight down
    chest = _step(hip, up, _TORSO)
    head = _step(chest, up, 16)
    parts = []
    for side, (a, b) in ((-1, leg_l), (1, leg_r)):
        top = (hip[0] + side * 4.2, hip[1])
        knee = _step(top, a, _LEG)
        foot = _step(knee, b, _LEG)
        parts += [("shoe", foot, foot, 5.2), ("trousers", top, knee, 5.0), ("trousers", knee, foot, 4.6)]
    parts.append(("trousers", (hip[0] - 3.4, hip[1]), (hip[0] + 3.4, hip[1]), 5.4))
    parts.append(("skin", chest, head, 3.6))
    parts.append(("shirt", _step(hip, up, 4), _step(chest, up, -2), 8.8))
    parts.append(("hair", head, _step(head, up, 1.5), 12.0))
    face = _step(head, up, -3.4)
    parts.append(("skin", face, face, 8.6))
    for side in (-1, 1):
        eye = _step(_step(face, up, 0.5), up - 90 * side, 3.3)
        parts.append(("eye", eye, eye, 1.3))
    for side, (a, b) in ((-1, arm_l), (1, arm_r)):
        root = _step(_step(chest, up, -3), up - 90 * side, 6.2)
        elbow = _step(root, a, _ARM)
        hand = _step(elbow, b, _ARM)
        parts += [("skin", hand, hand, 4.6), ("shirt", root, elbow, 4.3), ("shirt", elbow, hand, 4.0)]
        parts.append(("skin", hand, hand, 4.4))
    return parts


def capsule_coverage(p, q, radius):
    """Coverage of a capsule in its bounding box: (y0, x0, array of [0, 1])."""
    x0 = max(0, int(min(p[0], q[0]) - radius - 1))
    x1 = min(SIDE, int(max(p[0], q[0]) + radius + 2))
    y0 = max(0, int(min(p[1], q[1]) - radius - 1))
    y1 = min(SIDE, int(max(p[1], q[1]) + radius + 2))
    if x1 <= x0 or y1 <= y0:
        return 0, 0, np.zeros((0, 0), np.float32)
    X, Y = _X[y0:y1, x0:x1] - p[0], _Y[y0:y1, x0:x1] - p[1]
    dx, dy = q[0] - p[0], q[1] - p[1]
    n = dx * dx + dy * dy
    t = np.clip((X * dx + Y * dy) / n, 0, 1) if n > 0 else np.float32(0)
    d = np.hypot(X - t * dx, Y - t * dy)
    return y0, x0, np.clip(radius - d + 0.5, 0, 1)


def part_colour(scene, part):
    if part == "hair":
        return HAIR[scene["hair"]]
    if part == "shirt":
        return SHIRTS[scene["shirt"]]
    if part == "trousers":
        return TROUSERS[scene["trousers"]]
    return {"skin": SKIN, "shoe": SHOE, "eye": (40, 32, 36)}[part]


def ground(name):
    top, low = GROUNDS[name]
    t = np.clip(_Y - HORIZON + 0.5, 0, 1)[..., None]
    return np.asarray(top, np.float32) * (1 - t) + np.asarray(low, np.float32) * t


def draw_float(scene):
    if scene["kind"] == "person":
        img = ground(scene["ground"])
        for part, p, q, r in person_parts(scene["pose"], scene["x"], scene["y"]):
            _paint(img, *capsule_coverage(p, q, r), part_colour(scene, part))
        return img
    img = background(scene["background"])
    for s in scene["shapes"]:
        _paint(img, *shape_coverage(s["shape"], s["x"], s["y"], s["r"]), COLOURS[s["colour"]])
    return img


def draw(scene):
    return np.clip(draw_float(scene) + 0.5, 0, 255).astype(np.uint8)


def cell_centre(place):
    return CELL[place % 3], CELL[place // 3]
