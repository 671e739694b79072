"""The words and colours of the world: every value that a fact can take, with its place in the order.

The order of each list is part of the held-out rule (scenes.held_out) and of the frozen test set: append, never reorder.
"""

# Colours of shapes, RGB.
COLOURS = {
    "red": (220, 40, 40), "orange": (245, 135, 20), "yellow": (246, 214, 30), "lime": (150, 222, 40),
    "green": (30, 140, 60), "teal": (15, 135, 145), "cyan": (60, 205, 235), "blue": (40, 70, 215),
    "purple": (125, 45, 180), "pink": (245, 95, 170), "brown": (130, 78, 38), "black": (25, 25, 30),
}
SHAPES = ["circle", "square", "triangle", "diamond", "star", "heart", "cross", "ring"]
OUTER_SHAPES = ["circle", "square", "diamond", "heart"]
SIZES = {"small": 8.5, "medium": 13.0, "large": 17.5}  # radius in pixels
OUTER_RADIUS = 42.0
INNER_RADIUS = 13.0

# Colours of backgrounds, RGB.
TINTS = {
    "white": (250, 250, 250), "beige": (240, 220, 165), "light blue": (165, 212, 250), "light pink": (255, 200, 215),
    "light green": (185, 236, 175), "lavender": (215, 182, 240), "light grey": (190, 190, 192),
}
BACKGROUNDS = ["plain", "vertical stripes", "horizontal stripes", "gradient"]
STRIPE = 16  # width of a stripe in pixels

# Places: a 3 x 3 grid, row by row; CELL[i] is the coordinate of row or column i.
PLACES = ["top left", "top centre", "top right", "middle left", "centre", "middle right",
          "bottom left", "bottom centre", "bottom right"]
CELL = (23.0, 64.0, 105.0)

HAIR = {"black": (30, 26, 30), "brown": (112, 66, 34), "blonde": (240, 208, 70), "red": (196, 66, 24),
        "grey": (150, 152, 160), "blue": (50, 90, 225)}
SHIRTS = {"red": (220, 40, 40), "orange": (245, 135, 20), "yellow": (246, 214, 30), "green": (30, 140, 60),
          "blue": (40, 70, 215), "purple": (125, 45, 180), "pink": (245, 95, 170), "black": (25, 25, 30)}
TROUSERS = {"black": (25, 25, 30), "blue": (40, 70, 215), "brown": (104, 58, 26), "green": (22, 120, 50),
            "red": (200, 36, 40), "grey": (136, 138, 146)}
SKIN = (238, 190, 152)
SHOE = (60, 50, 56)

# Grounds: (upper colour, lower colour); the line between them is at HORIZON.
GROUNDS = {"grass": ((168, 214, 246), (112, 184, 82)), "sand": ((206, 233, 250), (233, 207, 146)),
           "snow": ((150, 172, 206), (240, 245, 250)), "room": ((247, 231, 203), (172, 120, 82))}
HORIZON = 88.0

POSES = ["standing", "waving", "arms raised", "arms spread", "hands on hips", "running", "kicking", "sitting",
         "kneeling", "star jump", "pointing", "squatting", "bowing", "dancing"]

RELATIONS = ["left of", "right of", "above", "below", "inside"]
