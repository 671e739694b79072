"""Edits: one to four reference scenes, an instruction in English, and the scene that must come out.

An edit is {"task", "prompt", "refs": [scene], "target": scene, "about": {...}}; `about` names what the instruction
itself says (used to teach the text encoder, never shown to the transformer). Positions of what stays are kept exactly.
"""

import copy

from .captions import (GROUND_WORDS, POSE_WORDS, SHAPE_WORDS, article, background_words, pick, place_words, shape_words)
from .draw import cell_centre
from .names import COLOURS, GROUNDS, HAIR, POSES, SHAPES, SHIRTS, SIZES, TROUSERS
from .scenes import held_out, place_shape, random_background, random_person, random_shapes, relations

TASKS = ["recolour", "move", "add", "remove", "background", "dress", "ground", "pose", "put", "put two", "pose character",
         "pose character ground", "pose hair clothes", "pose hair clothes ground"]
# The tasks whose result can hold a combination that no reference holds.
CAN_HOLD_OUT = [t for t in TASKS if t not in ("move", "remove", "background", "ground", "put", "put two")]


def _source(rng, most=2):
    while True:
        sc = random_shapes(rng, False, pick(rng, ["single", "pair", "places"]))
        if len(sc["shapes"]) <= most:
            return sc


def _placed(sc):
    """The same shapes told by their places: what an edit leaves behind need not keep a stated relation."""
    out = copy.deepcopy(sc)
    out.pop("relation", None)
    out["layout"] = "places" if len(out["shapes"]) > 1 else "single"
    return out


def _free(rng, sc):
    taken = {s["place"] for s in sc["shapes"]}
    return int(pick(rng, [p for p in range(9) if p not in taken]))


def _name(rng, sc, i):
    s = sc["shapes"][i]
    alone = sum(x["shape"] == s["shape"] for x in sc["shapes"]) == 1
    word = pick(rng, SHAPE_WORDS[s["shape"]])
    return f"the {word}" if alone and rng.random() < 0.25 else f"the {s['colour']} {word}"


def _at(place):
    x, y = cell_centre(place)
    return {"place": int(place), "x": x, "y": y}


def _recolour(rng):
    sc = _source(rng)
    i = rng.integers(len(sc["shapes"]))
    out = _placed(sc)
    used = [s["colour"] for s in sc["shapes"]]
    new = pick(rng, [c for c in COLOURS if c not in used])
    name = _name(rng, sc, i)
    out["shapes"][i]["colour"] = new
    text = pick(rng, [f"Make {name} {new}.", f"Change the colour of {name} to {new}.", f"Recolour {name} {new}.",
                      f"Turn {name} {new}.", f"Paint {name} {new}."])
    return text, [sc], out, {"shape": sc["shapes"][i]["shape"], "new colour": new}


def _move(rng):
    sc = _source(rng)
    i = rng.integers(len(sc["shapes"]))
    out = _placed(sc)
    s = out["shapes"][i]
    to = _free(rng, sc)
    a, b = cell_centre(s["place"]), cell_centre(to)
    s.update(place=to, x=s["x"] + b[0] - a[0], y=s["y"] + b[1] - a[1])
    name = _name(rng, sc, i)
    where = place_words(rng, to)
    text = pick(rng, [f"Move {name} so that it is {where}.", f"Move {name}: it should be {where}.",
                      f"Place {name} {where} instead.", f"Shift {name}, so it sits {where}."])
    return text, [sc], out, {"shape": s["shape"], "place": to}


def _add(rng):
    sc = _source(rng)
    out = _placed(sc)
    to = _free(rng, sc)
    used = [s["colour"] for s in sc["shapes"]]
    new = place_shape(rng, pick(rng, SHAPES), pick(rng, [c for c in COLOURS if c not in used]), pick(rng, list(SIZES)), to)
    new.update(_at(to), r=SIZES[new["size"]])
    out["shapes"].append(new)
    out["layout"] = "places"
    w = article(shape_words(rng, new))
    text = pick(rng, [f"Add {w} {place_words(rng, to)}.", f"Put {w} {place_words(rng, to)}.",
                      f"Draw {w} {place_words(rng, to)} as well.", f"There should also be {w} {place_words(rng, to)}."])
    return text, [sc], out, {"shape": new["shape"], "new colour": new["colour"], "size": new["size"], "place": to}


def _remove(rng):
    while True:
        sc = _source(rng, 3)
        if len(sc["shapes"]) > 1:
            break
    i = rng.integers(len(sc["shapes"]))
    out = _placed(sc)
    name = _name(rng, sc, i)
    gone = out["shapes"].pop(i)
    out["layout"] = "places" if len(out["shapes"]) > 1 else "single"
    text = pick(rng, [f"Remove {name}.", f"Take {name} away.", f"Delete {name} from the picture.", f"Erase {name}."])
    return text, [sc], out, {"shape": gone["shape"]}


def _background(rng):
    sc = _source(rng, 3)
    out = _placed(sc)
    while out["background"] == sc["background"]:
        out["background"] = random_background(rng)
    w = background_words(rng, out["background"])
    text = pick(rng, [f"Change the background to {w}.", f"Replace the background with {w}.",
                      f"Put the shapes on {w}.", f"Give the picture {w}."])
    return text, [sc], out, {"background": out["background"]}


def _dress(rng):
    sc = random_person(rng)
    what = pick(rng, ["hair", "shirt", "trousers"])
    table = {"hair": HAIR, "shirt": SHIRTS, "trousers": TROUSERS}[what]
    new = pick(rng, [c for c in table if c != sc[what]])
    out = dict(sc, **{what: new})
    word = pick(rng, ["trousers", "pants"]) if what == "trousers" else what
    text = pick(rng, [f"Change the {word} to {new}.", f"Make the {word} {new}.", f"Recolour the {word} {new}.",
                      f"Give the person {new} hair." if what == "hair" else f"Dress the person in {new} {word}."
                      if what == "trousers" else f"Dress the person in {article(new)} shirt."])
    return text, [sc], out, {what: new}


def _ground(rng):
    sc = random_person(rng)
    new = pick(rng, [g for g in GROUNDS if g != sc["ground"]])
    w = pick(rng, GROUND_WORDS[new])
    text = pick(rng, [f"Put the person {w}.", f"Show the same person {w}.", f"Change the scene: the person is {w} now.",
                      f"The person should be {w}."])
    return text, [sc], dict(sc, ground=new), {"ground": new}


def _pose(rng):
    sc = random_person(rng)
    new = pick(rng, [p for p in POSES if p != sc["pose"]])
    w = pick(rng, POSE_WORDS[new])
    text = pick(rng, [f"Show the same person {w}.", f"The person should be {w}.", f"Change the pose: the person is now {w}.",
                      f"Keep everything, but the person is {w}."])
    return text, [sc], dict(sc, pose=new), {"pose": new}


def _put(rng, n=1):
    sc = _source(rng, 1 if n == 2 else 2)
    out = _placed(sc)
    refs, texts, about = [sc], [], {}
    for k in range(n):
        while True:
            one = random_shapes(rng, False, "single")
            if one["shapes"][0]["colour"] not in [s["colour"] for s in out["shapes"]]:
                break
        to = _free(rng, out)
        out["shapes"].append(dict(one["shapes"][0], **_at(to)))
        refs.append(one)
        texts.append((f"Image {k + 2}", place_words(rng, to)))
        about["place" if k == 0 else "place 2"] = to
    out["layout"] = "places"
    if n == 1:
        im, where = texts[0]
        text = pick(rng, [f"Put the shape of {im} into Image 1 {where}.", f"Add the shape from {im} to Image 1 {where}.",
                          f"Into Image 1, {where}, put the shape of {im}.",
                          f"Copy the shape in {im} into Image 1, {where}."])
    else:
        (i2, w2), (i3, w3) = texts
        text = pick(rng, [f"Put the shape of {i2} into Image 1 {w2} and the shape of {i3} {w3}.",
                          f"Into Image 1, put the shape from {i2} {w2} and the shape from {i3} {w3}."])
    return text, refs, out, about


_POSE_CHARACTER = [
    "Use Image 1 as the exact pose reference and Image 2 as the character reference.",
    "Use Image 1 as the pose reference and Image 2 as the character reference.",
    "Take the exact pose from Image 1 and the character from Image 2.",
    "Show the person of Image 2 in the pose of Image 1.",
    "Draw the character from Image 2 in the same pose and place as in Image 1.",
    "Image 1 gives the pose, Image 2 gives the character: hair, shirt and trousers.",
    "Replace the person in Image 1 with the character of Image 2. Keep the pose exactly.",
    "Put the character of Image 2 into Image 1, in exactly the same pose.",
    "Use image 1 as the exact pose and image 2 as the character.",
]


def _pose_character(rng):
    a, b = random_person(rng), random_person(rng)
    out = dict(a, hair=b["hair"], shirt=b["shirt"], trousers=b["trousers"])
    return wording(rng, "pose character"), [a, b], out, {}


_WORDINGS = {
    "pose character": _POSE_CHARACTER,
    "pose character ground": [
        "Use Image 1 as the pose reference, Image 2 as the character reference and the ground of Image 3.",
        "The pose of Image 1, the character of Image 2, the surroundings of Image 3.",
        "Show the character of Image 2 in the pose of Image 1, in the place of Image 3."],
    "pose hair clothes": [
        "Take the pose from Image 1, the hair from Image 2 and the clothes from Image 3.",
        "The person of Image 1 with the hair of Image 2 and the clothes of Image 3."],
    "pose hair clothes ground": [
        "Take the pose from Image 1, the hair from Image 2, the clothes from Image 3 and the ground from Image 4.",
        "The pose of Image 1, the hair of Image 2, the clothes of Image 3, the surroundings of Image 4."],
}


def wording(rng, task):
    """An instruction for one of the pose-and-character tasks: the same words serve all pictures."""
    return pick(rng, _WORDINGS[task])


def _pose_character_ground(rng):
    a, b, c = (random_person(rng) for _ in range(3))
    out = dict(a, hair=b["hair"], shirt=b["shirt"], trousers=b["trousers"], ground=c["ground"])
    return wording(rng, "pose character ground"), [a, b, c], out, {}


def _pose_hair_clothes(rng):
    a, b, c = (random_person(rng) for _ in range(3))
    out = dict(a, hair=b["hair"], shirt=c["shirt"], trousers=c["trousers"])
    return wording(rng, "pose hair clothes"), [a, b, c], out, {}


def _pose_hair_clothes_ground(rng):
    a, b, c, d = (random_person(rng) for _ in range(4))
    out = dict(a, hair=b["hair"], shirt=c["shirt"], trousers=c["trousers"], ground=d["ground"])
    return wording(rng, "pose hair clothes ground"), [a, b, c, d], out, {}


_MAKE = {"recolour": _recolour, "move": _move, "add": _add, "remove": _remove, "background": _background, "dress": _dress,
         "ground": _ground, "pose": _pose, "put": _put, "put two": lambda rng: _put(rng, 2),
         "pose character": _pose_character, "pose character ground": _pose_character_ground,
         "pose hair clothes": _pose_hair_clothes, "pose hair clothes ground": _pose_hair_clothes_ground}


def random_edit(rng, task, held=False):
    """An edit whose result holds a held-out combination if `held`, else none; its references never hold one.
    `held` needs a task of CAN_HOLD_OUT."""
    if held and task not in CAN_HOLD_OUT:
        raise ValueError(f"task {task!r} cannot make a held-out combination")
    while True:
        text, refs, out, about = _MAKE[task](rng)
        if held_out(out) == held:
            assert not relations(out)
            return {"task": task, "prompt": text, "refs": refs, "target": out, "about": about}
