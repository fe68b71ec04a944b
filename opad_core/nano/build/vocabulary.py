"""The vocabulary of the nano world: objects, scenes, colors, patterns, and the phrases for them."""

from dataclasses import dataclass

# Class noun -> code points. Each has two drawings: Fluent's are 3D renderings, Noto's are flat.
_CODE_POINTS = {
    "dog": "1f436 1f415",
    "cat": "1f431 1f408",
    "rabbit": "1f430",
    "panda": "1f43c",
    "fox": "1f98a",
    "lion": "1f981",
    "tiger": "1f42f",
    "bear": "1f43b",
    "koala": "1f428",
    "pig": "1f437",
    "monkey": "1f435",
    "frog": "1f438",
    "owl": "1f989",
    "penguin": "1f427",
    "duck": "1f986",
    "bird": "1f426",
    "fish": "1f41f",
    "turtle": "1f422",
    "dinosaur": "1f996",
    "elephant": "1f418",
    "giraffe": "1f992",
    "horse": "1f434",
    "cow": "1f42e",
    "sheep": "1f411",
    "mouse": "1f42d",
    "hamster": "1f439",
    "wolf": "1f43a",
    "octopus": "1f419",
    "crab": "1f980",
    "whale": "1f433",
    "dolphin": "1f42c",
    "shark": "1f988",
    "snail": "1f40c",
    "butterfly": "1f98b",
    "bee": "1f41d",
    "ladybug": "1f41e",
    "chicken": "1f414",
    "flamingo": "1f9a9",
    "hedgehog": "1f994",
    "mushroom": "1f344",
    "cactus": "1f335",
    "tree": "1f333",
    "sunflower": "1f33b",
    "rose": "1f339",
    "tulip": "1f337",
    "apple": "1f34e",
    "banana": "1f34c",
    "lemon": "1f34b",
    "pear": "1f350",
    "strawberry": "1f353",
    "grapes": "1f347",
    "watermelon": "1f349",
    "pineapple": "1f34d",
    "carrot": "1f955",
    "corn": "1f33d",
    "tomato": "1f345",
    "broccoli": "1f966",
    "burger": "1f354",
    "pizza": "1f355",
    "donut": "1f369",
    "cookie": "1f36a",
    "cake": "1f382",
    "cupcake": "1f9c1",
    "bread": "1f35e",
    "cheese": "1f9c0",
    "egg": "1f95a",
    "mug": "2615 1f375",
    "bowl": "1f963",
    "handbag": "1f45c",
    "hat": "1f3a9",
    "crown": "1f451",
    "sneaker": "1f45f",
    "boot": "1f97e",
    "shirt": "1f455",
    "umbrella": "2614",
    "clock": "23f0",
    "camera": "1f4f7",
    "phone": "1f4f1",
    "radio": "1f4fb",
    "guitar": "1f3b8",
    "drum": "1f941",
    "book": "1f4d5",
    "candle": "1f56f",
    "bell": "1f514",
    "gift": "1f381",
    "balloon": "1f388",
    "teddy bear": "1f9f8",
    "robot": "1f916",
    "car": "1f697 1f699",
    "bus": "1f68c",
    "truck": "1f69a",
    "tractor": "1f69c",
    "train": "1f682",
    "rocket": "1f680",
    "boat": "26f5",
    "ball": "26bd",
    "vase": "1f3fa",
    "chair": "1fa91",
    "pumpkin": "1f383",
    "ghost": "1f47b",
    "alien": "1f47d",
    "snowman": "26c4",
}

# Class noun -> drawings as "set:code point" or "own:name".
DRAWINGS: dict[str, tuple[str, ...]] = {
    **{
        noun: tuple(f"{kind}:{code}" for code in codes.split() for kind in ("fluent", "noto"))
        for noun, codes in _CODE_POINTS.items()
    },
    # The Noto drawings of these two are in `examples/`.
    "backpack": ("fluent:1f392", "own:backpack"),
    "teapot": ("fluent:1fad6", "own:teapot"),
}

# Drawings that the base never sees in training. `examples/` and `bench/` show them.
HELD_OUT: dict[str, tuple[str, ...]] = {
    "dog": ("fluent:1f429", "noto:1f429", "fluent:1f415-200d-1f9ba", "noto:1f415-200d-1f9ba"),
    "cat": ("fluent:1f408-200d-2b1b", "noto:1f408-200d-2b1b"),
    "rabbit": ("fluent:1f407", "noto:1f407"),
    "bird": ("noto:1f99c", "fluent:1f425"),
    "fish": ("noto:1f420", "fluent:1f421"),
    "backpack": ("noto:1f392",),
    "teapot": ("noto:1fad6",),
    "car": ("fluent:1f695", "noto:1f695"),
    "hat": ("noto:1f452", "fluent:1f452"),
    "dinosaur": ("noto:1f995", "fluent:1f995"),
    "bus": ("noto:1f68e", "fluent:1f68e"),
    "cake": ("noto:1f370", "fluent:1f370"),
}

# Color word -> hue in [0, 1).
COLORS = {
    "red": 0.99,
    "orange": 0.075,
    "yellow": 0.145,
    "green": 0.36,
    "blue": 0.6,
    "purple": 0.76,
    "pink": 0.9,
}

# Patterns, and the color words for them with their RGB values.
PATTERNS = ("stripes", "dots", "checks")
PATTERN_COLORS = {
    "red": (222, 52, 48),
    "yellow": (250, 210, 60),
    "green": (40, 156, 92),
    "blue": (40, 92, 190),
    "pink": (244, 130, 180),
    "white": (248, 248, 244),
    "black": (40, 40, 48),
}


@dataclass(frozen=True)
class Scene:
    """The words for a scene.

    `phrases` follow the noun. `place` completes "a photo of ..." when the scene shows no object. `caption` describes
    the same scene in other words than the evaluation's prompts.
    """

    phrases: tuple[str, ...]
    place: str
    caption: str


SCENES: dict[str, Scene] = {
    "jungle": Scene(("in the jungle",), "the jungle", "in a jungle"),
    "snow": Scene(("in the snow",), "the snow", "in white snow"),
    "beach": Scene(("on the beach",), "the beach", "on a beach"),
    "cobblestone": Scene(("on a cobblestone street",), "a cobblestone street", "on a street"),
    "fabric": Scene(("on top of pink fabric",), "pink fabric", "on a pink fabric"),
    "wood": Scene(("on top of a wooden floor",), "a wooden floor", "on a wooden floor"),
    "city": Scene(("with a city in the background", "in the city"), "the city", "in the city"),
    "mountain": Scene(("with a mountain in the background", "in the mountains"), "the mountains", "in the mountains"),
    "wheat": Scene(("with a wheat field in the background", "in a wheat field"), "a wheat field", "in a wheat field"),
    "water": Scene(("floating on top of water", "on the water"), "the water", "on the water"),
    "grass": Scene(("on top of green grass", "on the grass"), "the grass", "on the grass"),
    "desert": Scene(("in the desert",), "the desert", "in the desert"),
    "night": Scene(("at night", "under a night sky"), "the night sky", "at night"),
    "brick": Scene(("in front of a brick wall",), "a brick wall", "in front of a brick wall"),
    "white": Scene(("on a white background",), "a white background", "on a white background"),
    "house": Scene(("with a blue house in the background",), "a blue house", "in front of a blue house"),
    "rug": Scene(("on top of a purple rug",), "a purple rug", "on a purple rug"),
    "autumn": Scene(("with autumn leaves in the background", "in autumn"), "autumn leaves", "in autumn"),
    "dirt": Scene(("on top of a dirt road",), "a dirt road", "on a dirt road"),
    "sunset": Scene(("at sunset",), "the sunset", "at sunset"),
}


@dataclass(frozen=True)
class Template:
    """A prompt around a noun, with the object size (in pixels of 64) and the brightness that it describes.

    `grid_size` is the size of an object on the grid of latents.
    """

    text: str
    size: tuple[int, int] = (40, 48)
    grid_size: int = 48
    brightness: float = 1.0


# The small set of ImageNet templates with which Textual Inversion and Custom Diffusion train.
TEMPLATES: tuple[Template, ...] = (
    Template("a photo of a {}"),
    Template("a rendering of a {}"),
    Template("a cropped photo of the {}"),
    Template("the photo of a {}"),
    Template("a photo of a clean {}"),
    Template("a photo of a dirty {}"),
    Template("a dark photo of the {}", brightness=0.7),
    Template("a photo of my {}"),
    Template("a photo of the cool {}"),
    Template("a close-up photo of a {}", size=(50, 58), grid_size=56),
    Template("a bright photo of the {}", brightness=1.25),
    Template("a cropped photo of a {}"),
    Template("a photo of the {}"),
    Template("a good photo of the {}"),
    Template("a photo of one {}"),
    Template("a close-up photo of the {}", size=(50, 58), grid_size=56),
    Template("a rendition of the {}"),
    Template("a photo of the clean {}"),
    Template("a rendition of a {}"),
    Template("a photo of a nice {}"),
    Template("a good photo of a {}"),
    Template("a photo of the nice {}"),
    Template("a photo of the small {}", size=(28, 34), grid_size=32),
    Template("a photo of the weird {}"),
    Template("a photo of the large {}", size=(50, 58), grid_size=56),
)

NOUNS = tuple(sorted(DRAWINGS))
SCENE_PROMPTS = tuple(f"a {{}} {phrase}" for scene in SCENES.values() for phrase in scene.phrases)
CAPTION_SCENES = tuple(f"a {{}} {scene.caption}" for scene in SCENES.values())
# Scene prompts for the student's training. None of them has the wording of one of DreamBooth's prompts.
TRAINING_SCENES = tuple(
    f"a {{}} {phrase}"
    for phrase in (
        "on the water", "on the grass", "in the desert", "at night", "under a night sky", "in front of a brick wall",
        "on a white background", "in autumn", "at sunset",
    )
)  # fmt: skip


def with_article(prompt: str) -> str:
    """Correct the articles of a prompt: "a owl" becomes "an owl"."""
    words = prompt.split()
    return " ".join(
        "an" if word == "a" and following[:1] in "aeiou" and following else word
        for word, following in zip(words, [*words[1:], ""], strict=True)
    )


def all_words() -> list[str]:
    """Return every word that a caption can have, sorted."""
    texts = [template.text.replace("{}", "") for template in TEMPLATES]
    texts += [text for scene in SCENES.values() for text in (*scene.phrases, scene.place)]
    texts += [*NOUNS, *COLORS, *PATTERNS, *PATTERN_COLORS, "a an the of on in at with to and my toy"]
    words = {word for text in texts for word in text.replace("-", " - ").split()}
    return sorted(words)
