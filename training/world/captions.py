"""Captions: English for a scene, in many wordings, each of which states every fact that the judge asks for."""

from .names import PLACES

POSE_WORDS = {
    "standing": ["standing", "standing still", "standing upright", "just standing there"],
    "waving": ["waving", "waving a hand", "waving hello", "waving with one arm"],
    "arms raised": ["with both arms raised", "raising both arms", "with both arms up", "holding both arms up in the air"],
    "arms spread": ["with arms spread wide", "spreading both arms wide", "with both arms held out to the sides"],
    "hands on hips": ["with hands on hips", "with both hands on the hips", "resting both hands on the hips"],
    "running": ["running", "running fast", "running along", "out on a run"],
    "kicking": ["kicking", "kicking with one leg", "doing a high kick"],
    "sitting": ["sitting", "sitting down", "sitting on the floor", "sitting with legs stretched out"],
    "kneeling": ["kneeling", "kneeling down", "kneeling on one knee", "down on one knee"],
    "star jump": ["doing a star jump", "jumping with arms and legs spread", "in the middle of a star jump"],
    "pointing": ["pointing", "pointing to the right", "pointing to the side", "pointing with one arm"],
    "squatting": ["squatting", "squatting down", "crouching", "doing a squat"],
    "bowing": ["bowing", "bowing down", "bending forward", "taking a bow"],
    "dancing": ["dancing", "dancing happily", "doing a dance"],
}
GROUND_WORDS = {
    "grass": ["on grass", "on the grass", "on a meadow", "on a green lawn"],
    "sand": ["on sand", "on the sand", "on a beach", "on a sandy beach"],
    "snow": ["on snow", "in the snow", "in a snowy field", "on snowy ground"],
    "room": ["in a room", "indoors", "inside a room", "in a room with a wooden floor"],
}
SIZE_WORDS = {"small": ["small", "little", "tiny"], "medium": ["medium", "medium-sized", "mid-sized"],
              "large": ["large", "big"], "huge": ["huge", "very large", "giant"]}
SHAPE_WORDS = {"circle": ["circle", "circle", "disc"], "square": ["square"], "triangle": ["triangle"],
               "diamond": ["diamond", "diamond", "rhombus"], "star": ["star", "star", "five-pointed star"],
               "heart": ["heart"], "cross": ["cross", "cross", "plus sign"], "ring": ["ring", "ring", "hoop"]}
PLACE_WORDS = {
    "top left": ["in the top left", "in the top left corner", "at the top left", "in the upper left corner"],
    "top centre": ["at the top", "at the top centre", "in the middle of the top edge", "at the top in the middle"],
    "top right": ["in the top right", "in the top right corner", "at the top right", "in the upper right corner"],
    "middle left": ["on the left", "on the left side", "at the middle left", "at the left edge"],
    "centre": ["in the centre", "in the middle", "in the center", "at the centre of the picture"],
    "middle right": ["on the right", "on the right side", "at the middle right", "at the right edge"],
    "bottom left": ["in the bottom left", "in the bottom left corner", "at the bottom left", "in the lower left corner"],
    "bottom centre": ["at the bottom", "at the bottom centre", "in the middle of the bottom edge",
                      "at the bottom in the middle"],
    "bottom right": ["in the bottom right", "in the bottom right corner", "at the bottom right",
                     "in the lower right corner"],
}
RELATION_WORDS = {"left of": ["to the left of", "left of", "on the left of"],
                  "right of": ["to the right of", "right of", "on the right of"],
                  "above": ["above", "over", "higher up than"], "below": ["below", "under", "beneath"],
                  "inside": ["inside", "within", "in the middle of", "on top of"]}
OPENERS = ["", "", "", "", "A picture of ", "An image of ", "Draw ", "Please draw ", "Show me ", "Paint ",
           "I would like a picture of ", "Simple drawing: ", "Make an image with ", "Create "]


def pick(rng, words):
    return words[rng.integers(len(words))]


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def shape_words(rng, s, sized=True):
    size = pick(rng, SIZE_WORDS[s["size"]]) + " " if sized else ""
    return size + s["colour"] + " " + pick(rng, SHAPE_WORDS[s["shape"]])


def place_words(rng, place):
    return pick(rng, PLACE_WORDS[PLACES[place]])


def background_words(rng, bg):
    """A noun phrase without its article's preposition, e.g. "a plain white background"."""
    a, b = bg["colours"][0], bg["colours"][-1]
    kind = bg["type"]
    if kind == "plain":
        return pick(rng, [f"a plain {a} background", f"a {a} background", f"a solid {a} background",
                          f"a plain background in {a}"])
    if kind == "gradient":
        return pick(rng, [f"a gradient from {a} at the top to {b} at the bottom",
                          f"a background that fades from {a} at the top to {b} below",
                          f"a {a} to {b} gradient from top to bottom"])
    way = kind.split()[0]
    return pick(rng, [f"a background of {way} {a} and {b} stripes", f"{way} stripes of {a} and {b}",
                      f"a background with {way} stripes in {a} and {b}", f"{way} {a} and {b} stripes"])


def _finish(rng, body, bg):
    words = background_words(rng, bg)
    k = rng.integers(5)
    if k == 0:
        return f"On {words}, {body}."
    if k == 1:
        return f"{body}. The background: {words}."
    if k == 2:
        return f"{body}, {words}"
    return pick(rng, OPENERS) + f"{body} {pick(rng, ['on', 'on', 'against', 'in front of'])} {words}" + pick(rng, [".", ".", ""])


def _shapes(rng, sc):
    s, lay = sc["shapes"], sc["layout"]
    w = [article(shape_words(rng, x, x["size"] != "huge" or rng.random() < 0.5)) for x in s]
    if lay == "single":
        return f"{w[0]} {place_words(rng, s[0]['place'])}"
    if lay == "pair":
        rel = sc["relation"]
        back = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[rel]
        if rng.random() < 0.5:
            return f"{w[0]} {pick(rng, RELATION_WORDS[rel])} {w[1]}"
        return f"{w[1]} {pick(rng, RELATION_WORDS[back])} {w[0]}"
    if lay == "inside":
        inner = article(shape_words(rng, s[1], rng.random() < 0.5))
        outer = w[0]
        return pick(rng, [f"{inner} {pick(rng, RELATION_WORDS['inside'])} {outer}", f"{outer} with {inner} inside it",
                          f"{outer} that holds {inner}"])
    if lay == "row":
        return pick(rng, [f"a row of three shapes from left to right: {w[0]}, {w[1]} and {w[2]}",
                          f"{w[0]} on the left, {w[1]} in the middle and {w[2]} on the right",
                          f"from left to right, {w[0]}, {w[1]} and {w[2]}",
                          f"{w[0]} to the left of {w[1]}, and {w[2]} to the right of it"])
    if lay == "column":
        return pick(rng, [f"a column of three shapes from top to bottom: {w[0]}, {w[1]} and {w[2]}",
                          f"{w[0]} at the top, {w[1]} in the middle and {w[2]} at the bottom",
                          f"from top to bottom, {w[0]}, {w[1]} and {w[2]}",
                          f"{w[0]} above {w[1]}, and {w[2]} below it"])
    parts = [f"{a} {place_words(rng, x['place'])}" for a, x in zip(w, s)]
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def person_words(rng, sc, pose=True, place=True):
    h, s, t = sc["hair"], sc["shirt"], sc["trousers"]
    legs = pick(rng, ["trousers", "trousers", "pants"])
    who = pick(rng, ["person", "person", "stick figure", "stick person", "figure"])
    looks = pick(rng, [f"with {h} hair, {article(s)} shirt and {t} {legs}",
                       f"with {h} hair in {article(s)} shirt and {t} {legs}",
                       f"with {h} hair wearing {t} {legs} and {article(s)} shirt",
                       f"in {article(s)} shirt and {t} {legs}, with {h} hair",
                       f"who has {h} hair, {article(s)} shirt and {t} {legs}"])
    act = pick(rng, POSE_WORDS[sc["pose"]])
    where = pick(rng, GROUND_WORDS[sc["ground"]])
    k = rng.integers(5)
    if k == 0:
        return f"a {h}-haired {who} in {article(s)} shirt and {t} {legs}, {act}, {where}"
    if k == 1:
        return f"a {who} {act} {where}. Hair: {h}, shirt: {s}, {legs}: {t}"
    if k == 2:
        return f"a {who} {act} {where}, {looks}"
    return f"a {who} {looks}, {act} {where}"


def caption(scene, rng):
    """One wording of the scene, drawn with `rng`; at most about 45 words."""
    if scene["kind"] == "person":
        text = pick(rng, OPENERS) + person_words(rng, scene) + pick(rng, [".", ".", ""])
    else:
        text = _finish(rng, _shapes(rng, scene), scene["background"])
    if rng.random() < 0.75:
        text = text[0].upper() + text[1:]
    return text
