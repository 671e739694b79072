"""The judge: reads a picture of the world and says which facts hold.

It reads by synthesis: candidate backgrounds, shapes, poses and colours are drawn and compared with the picture, and what
fits best is what the picture shows. It knows nothing of captions while it reads; a fact holds if the reading says so.
Plain numpy, no randomness: the same picture gets the same reading. About 50 ms a picture on one core.
"""

import functools

import numpy as np

from training.world import draw
from training.world.names import (BACKGROUNDS, CELL, COLOURS, GROUNDS, HAIR, POSES, SHAPES, SHIRTS, SHOE, SIZES, SKIN,
                                  STRIPE, TINTS, TROUSERS)
from training.world.scenes import relations

CLIP = 90.0  # a pixel further than this from a candidate's colour is simply wrong
LOW = 64  # side of the coarse picture
MIN_OVERLAP = 0.55  # of a shape's mask with the best drawn shape (intersection over union)
MAX_PERSON_ERROR = 0.42  # mean clipped error inside the best person's outline, 1 = all wrong

# ---- facts


def facts(scene):
    """The facts of a scene: a list of (class, fact); class is single, relation, object, background or person."""
    if scene["kind"] == "person":
        return [("person", (k, scene[k])) for k in ("pose", "hair", "shirt", "trousers", "ground")]
    bg = scene["background"]
    colours = bg["colours"] if bg["type"] == "gradient" else sorted(bg["colours"])
    back = ("background", bg["type"], *colours)
    shapes = scene["shapes"]
    if len(shapes) == 1:
        s = shapes[0]
        return [("single", ("count", 1)), ("single", ("shape", s["shape"])), ("single", ("colour", s["colour"])),
                ("single", ("size", s["size"])), ("single", ("place", s["place"])), ("single", back)]
    out = [("object", ("count", len(shapes))), ("background", back)]
    for s in shapes:
        out.append(("object", ("object", s["shape"], s["colour"])))
        if scene["layout"] == "places":
            out.append(("object", ("object at", s["shape"], s["colour"], s["place"])))
        if scene["layout"] != "inside":
            out.append(("object", ("object size", s["shape"], s["colour"], s["size"])))
    for i, rel, j in relations(scene):
        a, b = shapes[i], shapes[j]
        out.append(("relation", ("relation", a["shape"], a["colour"], rel, b["shape"], b["colour"])))
    return out


def _related(a, rel, b):
    dx, dy = b["x"] - a["x"], b["y"] - a["y"]
    if rel == "inside":
        return max(abs(dx), abs(dy)) < 0.5 * b["r"] and a["r"] < 0.6 * b["r"]
    along, across = (dx, dy) if rel in ("left of", "right of") else (dy, dx)
    if rel in ("right of", "below"):
        along = -along
    return along > 12 and along > abs(across)


def holds(reading, fact):
    """Whether a fact holds in a reading."""
    if fact[0] in ("pose", "hair", "shirt", "trousers", "ground"):
        return reading["kind"] == "person" and reading[fact[0]] == fact[1]
    if reading["kind"] != "shapes":
        return False
    objects = reading["objects"]
    if fact[0] == "count":
        return len(objects) == fact[1]
    if fact[0] == "background":
        return reading["background"] == tuple(fact[1:])
    if fact[0] in ("shape", "colour", "size", "place"):
        return len(objects) == 1 and objects[0][fact[0]] == fact[1]
    named = {(o["shape"], o["colour"]): o for o in objects}
    a = named.get(tuple(fact[1:3]))
    if a is None:
        return False
    if fact[0] == "object":
        return True
    if fact[0] == "object at":
        return a["place"] == fact[3]
    if fact[0] == "object size":
        return a["size"] == fact[3]
    b = named.get(tuple(fact[4:6]))
    return b is not None and bool(_related(a, fact[3], b))


def verdict(picture, scene):
    """-> [(class, fact, holds)] of a scene's facts in a picture, uint8 [128, 128, 3]."""
    r = read(picture)
    return [(c, f, holds(r, f)) for c, f in facts(scene)]


# ---- reading

def _half(img):
    return img.reshape(LOW, 2, LOW, 2, -1).mean((1, 3))


def _cost(img, colour):
    """Clipped squared distance of each pixel to a colour, 0 to 1."""
    d = img - np.asarray(colour, np.float32)
    return np.minimum((d * d).sum(-1) / (CLIP * CLIP), 1)


@functools.lru_cache(maxsize=1)
def _backgrounds():
    """-> [(reading, float32 [LOW, LOW, 3])] of every background."""
    out = []
    names = list(TINTS)
    for kind in BACKGROUNDS:
        for i, a in enumerate(names):
            for j, b in enumerate(names):
                if (kind == "plain") != (i == j):
                    continue
                spec = {"type": kind, "colours": [a] if kind == "plain" else [a, b]}
                key = (kind, a) if kind == "plain" else (kind, a, b) if kind == "gradient" else (kind, *sorted((a, b)))
                out.append((key, _half(draw.background(spec)).astype(np.float32)))
    return out, np.stack([p for _, p in out])


def _read_background(low):
    every, pictures = _backgrounds()
    d = pictures - low
    np.square(d, out=d)
    err = np.minimum(d.sum(-1) / (CLIP * CLIP), 1).mean((1, 2))
    k = int(err.argmin())
    return every[k][0], every[k][1]


def _box3(x):
    p = np.pad(x, ((1, 1), (1, 1)) + ((0, 0),) * (x.ndim - 2), mode="edge")
    v = p[:-2] + p[1:-1] + p[2:]
    return (v[:, :-2] + v[:, 1:-1] + v[:, 2:]) / 9


def _grow(mask, allowed):
    """Pixels of `allowed` within three steps of `mask`."""
    for _ in range(3):
        mask = (_box3(mask.astype(np.float32)) > 0) & allowed
    return mask


@functools.lru_cache(maxsize=1)
def _moments():
    """Area and centre of each shape of radius 1."""
    out = {}
    for s in SHAPES:
        y0, x0, m = draw.shape_coverage(s, 64.0, 64.0, 40.0)
        area = float(m.sum())
        cy = float((m.sum(1) * (np.arange(m.shape[0]) + y0 + 0.5)).sum()) / area
        cx = float((m.sum(0) * (np.arange(m.shape[1]) + x0 + 0.5)).sum()) / area
        out[s] = (area / 1600, (cx - 64) / 40, (cy - 64) / 40)
    return out


def _overlap(alpha, area, shape, x, y, r):
    y0, x0, m = draw.shape_coverage(shape, x, y, r)
    inter = np.minimum(alpha[y0:y0 + m.shape[0], x0:x0 + m.shape[1]], m).sum()
    return float(inter / (area + m.sum() - inter + 1e-6))


def _fit_shape(alpha):
    """-> (overlap, shape, x, y, r) of the drawn shape nearest to a soft mask, float [128, 128] in [0, 1]."""
    area = float(alpha.sum())
    if area < 20:
        return 0.0, SHAPES[0], 64.0, 64.0, 1.0
    cy = float((alpha.sum(1) * (np.arange(128) + 0.5)).sum()) / area
    cx = float((alpha.sum(0) * (np.arange(128) + 0.5)).sum()) / area
    found = []
    for s in SHAPES:
        unit, ux, uy = _moments()[s]
        r = float(np.sqrt(area / unit))
        if 4 < r < 70:
            x, y = cx - ux * r, cy - uy * r
            found.append((_overlap(alpha, area, s, x, y, r), s, x, y, r))
    found = sorted(found, reverse=True)[:3]
    best = found[0] if found else (0.0, SHAPES[0], cx, cy, 1.0)
    for _, s, x, y, r in found:
        for f, dx, dy in ((0.95, 0, 0), (1.05, 0, 0), (1, 0.7, 0), (1, -0.7, 0), (1, 0, 0.7), (1, 0, -0.7)):
            best = max(best, (_overlap(alpha, area, s, x + dx, y + dy, r * f), s, x + dx, y + dy, r * f))
    return best


def _size(r):
    if r > 27:
        return "huge"
    return min(SIZES, key=lambda k: abs(SIZES[k] - r))


def _place(x, y):
    c = min(range(3), key=lambda i: abs(CELL[i] - x))
    r = min(range(3), key=lambda i: abs(CELL[i] - y))
    return r * 3 + c if max(abs(CELL[c] - x), abs(CELL[r] - y)) < 16 else None


def _read_shapes(img, low):
    key, back_low = _read_background(low)
    back = back_low.repeat(2, 0).repeat(2, 1)
    smooth = _box3(img)
    palette = np.array(list(COLOURS.values()), np.float32)
    d = ((smooth[:, :, None] - palette) ** 2).sum(-1)
    tints = np.array(list(TINTS.values()), np.float32)
    to_back = np.minimum(((smooth - back) ** 2).sum(-1), ((smooth[:, :, None] - tints) ** 2).sum(-1).min(-1))
    label = np.where(d.min(-1) < to_back, d.argmin(-1), -1)
    # A colour with a solid core is a shape. A thin one is a shape too, unless it only lines the edge of another, where
    # the mixture of two colours can look like a third.
    masks, thin = {}, []
    for i, name in enumerate(COLOURS):
        m = label == i
        if m.sum() < 30:
            continue
        soft = _box3(m.astype(np.float32))
        if (soft > 0.99).sum() >= 6:
            m = _grow(soft > 0.99, m)
            if m.sum() >= 40:
                masks[name] = m
        elif (soft > 0.6).sum() >= 6:
            pure = (((img - palette[i]) ** 2).sum(-1) < 45 * 45) & m
            thin.append((int(pure.sum()), name, _grow(soft > 0.6, m)))
    for _, name, m in sorted(thin, key=lambda t: -t[0]):
        near = np.zeros((128, 128), np.float32)
        for o in masks.values():
            near = np.maximum(near, o)
        if m.sum() >= 40 and m[_box3(_box3(near)) > 0].sum() < 0.3 * m.sum():
            masks[name] = m
    # Largest first: a shape is seen against what lies behind it.
    objects, shown = [], back.copy()
    boxes = {}
    for name, m in masks.items():
        ys, xs = np.nonzero(m.any(1))[0], np.nonzero(m.any(0))[0]
        boxes[name] = (max(ys[0] - 5, 0), ys[-1] + 6, max(xs[0] - 5, 0), xs[-1] + 6)
    for name in sorted(masks, key=lambda n: -(boxes[n][1] - boxes[n][0]) * (boxes[n][3] - boxes[n][2])):
        y0, y1, x0, x1 = boxes[name]
        behind = shown[y0:y1, x0:x1]
        way = np.asarray(COLOURS[name], np.float32) - behind
        part = ((img[y0:y1, x0:x1] - behind) * way).sum(-1) / (way * way).sum(-1)
        near = masks[name][y0:y1, x0:x1].astype(np.float32)
        for _ in range(5 if near.shape[0] < 40 else 2):
            near = _box3(near)
        part = np.clip(part, 0, 1) * (near > 0)
        for other, m in masks.items():
            b = boxes[other]
            if other == name:
                continue
            around = b[0] <= y0 and b[1] >= y1 and b[2] <= x0 and b[3] >= x1
            if y1 - y0 < 60 and not around:
                part[_box3(_box3(m.astype(np.float32)))[y0:y1, x0:x1] > 0] = 0
            elif not around and b[0] >= y0 and b[1] <= y1 and b[2] >= x0 and b[3] <= x1:
                part[b[0] - y0:b[1] - y0, b[2] - x0:b[3] - x0] = 1  # lies on this shape: part of its form
        alpha = np.zeros((128, 128), np.float32)
        alpha[y0:y1, x0:x1] = part
        score, shape, x, y, r = _fit_shape(alpha)
        ok = score >= MIN_OVERLAP
        objects.append({"shape": shape if ok else None, "colour": name, "size": _size(r), "place": _place(x, y),
                        "x": x, "y": y, "r": r, "overlap": score})
        if ok:
            draw._paint(shown, *draw.shape_coverage(shape, x, y, r), COLOURS[name])
    err = np.minimum(((_half(shown) - low) ** 2).sum(-1) / (CLIP * CLIP), 1).mean()
    return {"kind": "shapes", "background": key, "objects": objects, "error": float(err)}


_PARTS = ["hair", "skin", "shirt", "trousers", "shoe"]
_SHIFTS = [(dx, dy) for dx in range(-6, 7, 2) for dy in range(-5, 6, 2)]


@functools.lru_cache(maxsize=1)
def _people():
    """-> float32 [poses * shifts, 5 parts, LOW * LOW]: the visible coverage of each part."""
    out = np.zeros((len(POSES), len(_SHIFTS), 5, LOW * LOW), np.float32)
    for i, pose in enumerate(POSES):
        parts = draw.person_parts(pose, 64.0, 72.0)
        cover = np.zeros((128, 128, 5), np.float32)
        for part, p, q, r in parts:
            y0, x0, m = draw.capsule_coverage(p, q, r)
            box = cover[y0:y0 + m.shape[0], x0:x0 + m.shape[1]]
            box *= (1 - m)[..., None]
            if part != "eye":
                box[..., _PARTS.index(part)] += m
        for j, (dx, dy) in enumerate(_SHIFTS):
            moved = np.roll(cover, (dy, dx), (0, 1))
            out[i, j] = _half(moved).reshape(-1, 5).T
    return out.reshape(-1, 5, LOW * LOW)


def _read_person(low):
    flat = low.reshape(-1, 3)
    edge = np.zeros((LOW, LOW), bool)
    edge[:, :8] = edge[:, -8:] = True
    edge[40:49] = False
    names = list(GROUNDS)
    backs = [_half(draw.ground(g)) for g in names]
    ground = min(range(len(names)), key=lambda k: np.minimum(((backs[k] - low) ** 2).sum(-1), CLIP * CLIP)[edge].mean())
    back = np.minimum(((backs[ground] - low) ** 2).sum(-1) / (CLIP * CLIP), 1).reshape(-1)
    t = _people()
    covered = t.sum(1)
    total = back.sum() - covered @ back
    chosen = []
    inside = np.zeros(len(t), np.float32)
    for k, table in enumerate((HAIR, {"skin": SKIN}, SHIRTS, TROUSERS, {"shoe": SHOE})):
        costs = np.stack([_cost(flat, c) for c in table.values()], 1)
        e = t[:, k] @ costs
        chosen.append((list(table), e))
        total = total + e.min(1)
        inside = inside + e.min(1)
    best = int(total.argmin())
    colours = [n[int(e[best].argmin())] for n, e in chosen]
    good = inside[best] / covered[best].sum() < MAX_PERSON_ERROR
    return {"kind": "person", "pose": POSES[best // len(_SHIFTS)] if good else None, "hair": colours[0],
            "shirt": colours[2], "trousers": colours[3], "ground": names[ground], "error": float(total[best] / len(flat)),
            "person error": float(inside[best] / covered[best].sum())}


def read(picture):
    """uint8 [128, 128, 3] (or a side that is a multiple of 128: it is averaged down) -> the reading, a dict: kind
    "person" or "shapes", whichever drawn picture comes nearer."""
    img = np.asarray(picture)[..., :3].astype(np.float32)
    k = img.shape[0] // 128
    if img.shape[:2] != (128 * k, 128 * k) or k == 0:
        raise ValueError(f"a picture of {img.shape[1]}x{img.shape[0]}: expected a square with a side of 128 or a multiple")
    if k > 1:
        img = img.reshape(128, k, 128, k, 3).mean((1, 3))
    low = _half(img)
    a, b = _read_person(low), _read_shapes(img, low)
    return a if a["error"] < b["error"] else b
