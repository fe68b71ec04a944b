"""The words of the nano world: what can be drawn, where, in which colour, and how it is said."""

from dataclasses import dataclass

# Class noun -> drawings as "set:code point". Fluent drawings are 3D renderings, Noto drawings are flat.
DRAWINGS: dict[str, tuple[str, ...]] = {
    "dog": ("fluent:1f436", "noto:1f436", "fluent:1f415", "noto:1f415"),
    "cat": ("fluent:1f431", "noto:1f431", "fluent:1f408", "noto:1f408"),
    "rabbit": ("fluent:1f430", "noto:1f430", "noto:1f407"),
    "panda": ("fluent:1f43c", "noto:1f43c"),
    "fox": ("fluent:1f98a", "noto:1f98a"),
    "lion": ("fluent:1f981", "noto:1f981"),
    "pig": ("fluent:1f437", "noto:1f437"),
    "monkey": ("fluent:1f435", "noto:1f435", "noto:1f412"),
    "frog": ("fluent:1f438", "noto:1f438"),
    "owl": ("fluent:1f989", "noto:1f989"),
    "penguin": ("fluent:1f427", "noto:1f427"),
    "duck": ("fluent:1f986", "noto:1f986"),
    "bird": ("fluent:1f426", "noto:1f426", "fluent:1f99c", "fluent:1f424", "noto:1f424"),
    "fish": ("fluent:1f420", "fluent:1f41f", "noto:1f41f"),
    "turtle": ("fluent:1f422", "noto:1f422"),
    "dinosaur": ("fluent:1f996", "noto:1f996", "noto:1f995"),
    "backpack": ("fluent:1f392",),
    "mug": ("fluent:2615", "noto:2615", "fluent:1f375"),
    "teapot": ("fluent:1fad6",),
    "robot": ("fluent:1f916", "noto:1f916"),
    "sneaker": ("fluent:1f45f", "noto:1f45f"),
    "boot": ("fluent:1f97e", "noto:1f97e"),
    "bowl": ("fluent:1f963", "noto:1f963", "noto:1f35c"),
    "teddy bear": ("fluent:1f9f8", "noto:1f9f8"),
    "car": ("fluent:1f697", "noto:1f697", "fluent:1f699", "noto:1f699"),
    "rocket": ("fluent:1f680", "noto:1f680"),
    "crown": ("fluent:1f451", "noto:1f451"),
    "hat": ("fluent:1f3a9", "noto:1f3a9", "fluent:1f452"),
    "clock": ("fluent:23f0", "noto:23f0", "noto:1f570"),
    "cake": ("fluent:1f382", "noto:1f382", "fluent:1f370"),
    "apple": ("fluent:1f34e", "noto:1f34e"),
    "mushroom": ("fluent:1f344", "noto:1f344"),
}

# Never seen in training: they are the drawings behind examples/ and bench/.
HELD_OUT: dict[str, tuple[str, ...]] = {
    "dog": ("fluent:1f429", "noto:1f429", "fluent:1f415-200d-1f9ba", "noto:1f415-200d-1f9ba"),
    "cat": ("fluent:1f408-200d-2b1b", "noto:1f408-200d-2b1b"),
    "rabbit": ("fluent:1f407",),
    "bird": ("noto:1f99c", "fluent:1f425"),
    "fish": ("noto:1f420", "fluent:1f421"),
    "backpack": ("noto:1f392",),
    "teapot": ("noto:1fad6",),
    "car": ("fluent:1f695", "noto:1f695"),
    "hat": ("noto:1f452",),
}

# Words the tokenizer knows so that a later edition can draw them without changing the text encoder's rows.
_NOT_DRAWN_YET = "boat burger bus cactus camera candle donut elephant guitar octopus vase"

# Colour word -> hue in [0, 1).
COLOURS = {
    "red": 0.99,
    "orange": 0.075,
    "yellow": 0.145,
    "green": 0.36,
    "blue": 0.6,
    "purple": 0.76,
    "pink": 0.9,
}


@dataclass(frozen=True)
class Scene:
    """`phrases` follow the noun; `place` completes "a photo of ..." when nothing stands in the scene."""

    phrases: tuple[str, ...]
    place: str


SCENES: dict[str, Scene] = {
    "jungle": Scene(("in the jungle",), "the jungle"),
    "snow": Scene(("in the snow",), "the snow"),
    "beach": Scene(("on the beach",), "the beach"),
    "cobblestone": Scene(("on a cobblestone street",), "a cobblestone street"),
    "fabric": Scene(("on top of pink fabric",), "pink fabric"),
    "wood": Scene(("on top of a wooden floor",), "a wooden floor"),
    "city": Scene(("with a city in the background", "in the city"), "the city"),
    "mountain": Scene(("with a mountain in the background", "in the mountains"), "the mountains"),
    "wheat": Scene(("with a wheat field in the background", "in a wheat field"), "a wheat field"),
    "water": Scene(("floating on top of water", "on the water"), "the water"),
    "grass": Scene(("on top of green grass", "on the grass"), "the grass"),
    "desert": Scene(("in the desert",), "the desert"),
    "night": Scene(("at night", "under a night sky"), "the night sky"),
    "brick": Scene(("in front of a brick wall",), "a brick wall"),
    "white": Scene(("on a white background",), "a white background"),
    "house": Scene(("with a blue house in the background",), "a blue house"),
}


@dataclass(frozen=True)
class Template:
    """A prompt around a noun and what it says about the picture: object size in pixels of 64, brightness."""

    text: str
    size: tuple[int, int] = (36, 50)
    brightness: float = 1.0


# The small set of ImageNet templates that Textual Inversion and Custom Diffusion train with.
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
    Template("a close-up photo of a {}", size=(48, 58)),
    Template("a bright photo of the {}", brightness=1.25),
    Template("a cropped photo of a {}"),
    Template("a photo of the {}"),
    Template("a good photo of the {}"),
    Template("a photo of one {}"),
    Template("a close-up photo of the {}", size=(48, 58)),
    Template("a rendition of the {}"),
    Template("a photo of the clean {}"),
    Template("a rendition of a {}"),
    Template("a photo of a nice {}"),
    Template("a good photo of a {}"),
    Template("a photo of the nice {}"),
    Template("a photo of the small {}", size=(28, 36)),
    Template("a photo of the weird {}"),
    Template("a photo of the large {}", size=(48, 58)),
)

NOUNS = tuple(sorted(DRAWINGS))
SCENE_PROMPTS = tuple(f"a {{}} {phrase}" for scene in SCENES.values() for phrase in scene.phrases)


def with_article(prompt: str) -> str:
    """ "a owl" -> "an owl"."""
    words = prompt.split()
    return " ".join(
        "an" if word == "a" and following[:1] in "aeiou" and following else word
        for word, following in zip(words, [*words[1:], ""], strict=True)
    )


def all_words() -> list[str]:
    """Every word a caption can hold, sorted."""
    texts = [template.text.replace("{}", "") for template in TEMPLATES]
    texts += [text for scene in SCENES.values() for text in (*scene.phrases, scene.place)]
    texts += [*NOUNS, *COLOURS, _NOT_DRAWN_YET, "a an the of on in at with to and my toy"]
    words = {word for text in texts for word in text.replace("-", " - ").split()}
    return sorted(words)
