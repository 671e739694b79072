"""Tests of the judge on the world's own renderings: plain, blurred and noisy; true captions, captions with one fact
changed, unchanged references of edits. Needs numpy, Pillow and pytest only."""

import copy

import numpy as np
import pytest
from PIL import Image, ImageFilter

from training.judge import heldout, judge
from training.world import captions, draw, edits, scenes
from training.world.names import COLOURS, GROUNDS, HAIR, POSES, SHAPES, SHIRTS, SIZES, TINTS, TROUSERS

SCENES = 70  # a way of spoiling the picture


def spoiled(picture, how, rng):
    if how == "blurred":
        return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1)))
    if how == "noisy":
        return np.clip(picture + rng.normal(0, 10, picture.shape), 0, 255).astype(np.uint8)
    return picture


def other(rng, table, value):
    return captions.pick(rng, [v for v in table if v != value])


def one_changed(scene, rng):
    """The scene as a caption with exactly one fact changed would describe it."""
    out = copy.deepcopy(scene)
    if out["kind"] == "person":
        k = captions.pick(rng, ["pose", "hair", "shirt", "trousers", "ground"])
        table = {"pose": POSES, "hair": HAIR, "shirt": SHIRTS, "trousers": TROUSERS, "ground": GROUNDS}[k]
        out[k] = other(rng, table, out[k])
        return out
    s = out["shapes"][rng.integers(len(out["shapes"]))]
    kinds = ["shape", "colour", "background"]
    if out["layout"] in ("single", "places"):
        kinds.append("place")
    if s["size"] in SIZES and out["layout"] != "inside":
        kinds.append("size")
    if out["layout"] == "pair":
        kinds.append("relation")
    k = captions.pick(rng, kinds)
    if k == "shape":
        s["shape"] = other(rng, SHAPES, s["shape"])
    elif k == "colour":
        s["colour"] = captions.pick(rng, [c for c in COLOURS if c not in [x["colour"] for x in out["shapes"]]])
    elif k == "size":
        s["size"] = other(rng, SIZES, s["size"])
    elif k == "place":
        s["place"] = captions.pick(rng, [p for p in range(9) if p not in [x["place"] for x in out["shapes"]]])
    elif k == "relation":
        out["relation"] = other(rng, ["left of", "right of", "above", "below"], out["relation"])
    else:
        bg = out["background"]
        bg["colours"][0] = captions.pick(rng, [t for t in TINTS if t not in bg["colours"]])
    return out


@pytest.mark.parametrize("how", ["plain", "blurred", "noisy"])
def test_true_facts_are_accepted_and_changed_ones_rejected(how):
    rng = np.random.default_rng({"plain": 1, "blurred": 2, "noisy": 3}[how])
    true = held = wrong = rejected = 0
    for i in range(SCENES):
        scene = scenes.random_scene(rng, bool(i % 2))
        reading = judge.read(spoiled(draw.draw(scene), how, rng))
        verdicts = [judge.holds(reading, f) for _, f in judge.facts(scene)]
        true, held = true + len(verdicts), held + sum(verdicts)
        for _ in range(3):
            lie = one_changed(scene, rng)
            wrong += 1
            rejected += not all(judge.holds(reading, f) for _, f in judge.facts(lie))
    assert held >= 0.99 * true, f"{held} of {true} true facts accepted"
    assert rejected >= 0.99 * wrong, f"{rejected} of {wrong} changed captions rejected"


def test_unchanged_references_fail_an_edit():
    rng = np.random.default_rng(4)
    for task in edits.TASKS:
        for _ in range(2):
            e = edits.random_edit(rng, task)
            want = judge.facts(e["target"])
            good = judge.read(draw.draw(e["target"]))
            assert all(judge.holds(good, f) for _, f in want), (task, e["prompt"])
            for ref in e["refs"]:
                if judge.facts(ref) != want:
                    same = judge.read(draw.draw(ref))
                    assert not all(judge.holds(same, f) for _, f in want), (task, e["prompt"])


def test_unchanged_references_fail_the_held_out_edits():
    for e in heldout.load()["edits"][:15]:
        want = judge.facts(e["target"])
        for ref in e["refs"]:
            if judge.facts(ref) != want:
                same = judge.read(draw.draw(ref))
                assert not all(judge.holds(same, f) for _, f in want)


def test_pictures_of_nothing_hold_no_scene():
    rng = np.random.default_rng(5)
    for picture in (np.zeros((128, 128, 3), np.uint8), rng.integers(0, 256, (128, 128, 3)).astype(np.uint8)):
        for i in range(20):
            scene = scenes.random_scene(rng)
            assert not all(h for _, _, h in judge.verdict(picture, scene))


def test_held_out_list_is_frozen_and_held_out():
    held = heldout.load()
    assert len(held["captions"]) == 500 and len(held["edits"]) == 200
    assert all(scenes.held_out(c["scene"]) for c in held["captions"])
    assert all(scenes.held_out(e["target"]) for e in held["edits"])
    assert not any(scenes.held_out(r) for e in held["edits"] for r in e["refs"])
    assert len({c["seed"] for c in held["captions"]} | {e["seed"] for e in held["edits"]}) == 700


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(ValueError, match="128"):
        judge.read(np.zeros((96, 128, 3), np.uint8))
    scene = scenes.random_scene(np.random.default_rng(6))
    double = draw.draw(scene).repeat(2, 0).repeat(2, 1)
    assert all(h for _, _, h in judge.verdict(double, scene))
