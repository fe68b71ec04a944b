"""What the tables evaluate: whose photos, and which prompts.

- `nano`: folders of photos with class.txt. The prompts are scenes that no photo and no prompt of the training showed.
- `dreambooth`: 30 subjects, of which 9 live, and 25 prompts for each (Ruiz et al., "DreamBooth", CVPR 2023, section 4.1
  and supplement; the texts and nouns are those of `prompts_and_classes.txt` in github.com/google/dreambooth).
- `customconcept101`: the concepts of a `dataset.json` with 20 prompts each (Kumari et al., "Multi-Concept Customization
  of Text-to-Image Diffusion", CVPR 2023; github.com/adobe-research/custom-diffusion, folder `customconcept101`).

Each prompt is asked for with four seeds.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opad_core.errors import OpadError
from opad_core.reference_folder import read_references, shown
from opad_core.tables.concepts import Concept, read_concept

PROTOCOLS = ("nano", "dreambooth", "customconcept101")

SUBJECTS = {
    "backpack": "backpack", "backpack_dog": "backpack", "bear_plushie": "stuffed animal", "berry_bowl": "bowl",
    "can": "can", "candle": "candle", "cat": "cat", "cat2": "cat", "clock": "clock", "colorful_sneaker": "sneaker",
    "dog": "dog", "dog2": "dog", "dog3": "dog", "dog5": "dog", "dog6": "dog", "dog7": "dog", "dog8": "dog",
    "duck_toy": "toy", "fancy_boot": "boot", "grey_sloth_plushie": "stuffed animal", "monster_toy": "toy",
    "pink_sunglasses": "glasses", "poop_emoji": "toy", "rc_car": "toy", "red_cartoon": "cartoon", "robot_toy": "toy",
    "shiny_sneaker": "sneaker", "teapot": "teapot", "vase": "vase", "wolf_plushie": "stuffed animal",
}  # fmt: skip
"""The class noun of each DreamBooth subject, by the name of its folder."""
LIVE_NOUNS = ("cat", "dog")
_BOTH = (
    "a {} in the jungle", "a {} in the snow", "a {} on the beach", "a {} on a cobblestone street",
    "a {} on top of pink fabric", "a {} on top of a wooden floor", "a {} with a city in the background",
    "a {} with a mountain in the background", "a {} with a blue house in the background",
    "a {} on top of a purple rug in a forest",
)  # fmt: skip
_PROPERTIES = ("a red {}", "a purple {}", "a shiny {}", "a wet {}", "a cube shaped {}")
OBJECT_PROMPTS = (
    *_BOTH, "a {} with a wheat field in the background", "a {} with a tree and autumn leaves in the background",
    "a {} with the Eiffel Tower in the background", "a {} floating on top of water",
    "a {} floating in an ocean of milk", "a {} on top of green grass with sunflowers around it",
    "a {} on top of a mirror", "a {} on top of the sidewalk in a crowded street", "a {} on top of a dirt road",
    "a {} on top of a white rug", *_PROPERTIES,
)  # fmt: skip
LIVE_PROMPTS = (
    *_BOTH, "a {} wearing a red hat", "a {} wearing a santa hat", "a {} wearing a rainbow scarf",
    "a {} wearing a black top hat and a monocle", "a {} in a chef outfit", "a {} in a firefighter outfit",
    "a {} in a police outfit", "a {} wearing pink glasses", "a {} wearing a yellow shirt",
    "a {} in a purple wizard outfit", *_PROPERTIES,
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A concept whose photos are not read yet."""

    name: str
    folder: Path
    class_noun: str
    prompts: tuple[str, ...] = ()
    """Each with one `{}`. Empty: scenes that no photo and no prompt of the training showed."""

    def read(self) -> Concept:
        """Read the photos. Raises OpadError if there are none, or if one cannot be used."""
        return Concept(self.name, self.class_noun, read_references(self.folder))


def subjects_of(protocol: str, folders: Sequence[Path]) -> list[Subject]:
    """Return the subjects in the folders of a protocol. Raises OpadError for folders that are not what it takes."""
    if protocol == "nano":
        return [Subject(folder.name, folder, read_concept(folder).class_noun) for folder in folders]
    if len(folders) != 1:
        raise OpadError(f"the protocol {protocol} takes one folder, that of the dataset; got {len(folders)}")
    if not folders[0].is_dir():
        raise OpadError(f"there is no folder {shown(folders[0])}; name the folder of the dataset")
    return _dreambooth(folders[0]) if protocol == "dreambooth" else _customconcept101(folders[0])


def _dreambooth(folder: Path) -> list[Subject]:
    found = [
        Subject(name, folder / name, noun, LIVE_PROMPTS if noun in LIVE_NOUNS else OBJECT_PROMPTS)
        for name, noun in SUBJECTS.items()
        if (folder / name).is_dir()
    ]
    if not found:
        raise OpadError(
            f"{shown(folder)} has a folder for none of DreamBooth's subjects, such as {shown(folder / 'backpack')}; "
            "name the folder `dataset` of github.com/google/dreambooth, or take --protocol nano for other photos"
        )
    return found


def _customconcept101(folder: Path) -> list[Subject]:
    """Read dataset.json: a list of concepts with their noun, folder of photos, and file of prompts."""
    file = folder / "dataset.json"
    try:
        entries = [
            (Path(entry["instance_data_dir"]), entry["class_prompt"], Path(entry["prompt_filename"]))
            for entry in json.loads(file.read_text())
        ]
    except FileNotFoundError:
        raise OpadError(
            f"{shown(folder)} has no dataset.json; name the folder `customconcept101` of "
            "github.com/adobe-research/custom-diffusion, with the photos unpacked into it"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise OpadError(f"{shown(file)} is not CustomConcept101's list of concepts: {error!r}") from error
    found = [
        Subject(photos.name, folder / photos, noun, _prompts(folder / prompts))
        for photos, noun, prompts in entries
        if (folder / photos).is_dir()
    ]
    if not found:
        raise OpadError(
            f"{shown(folder)} has photos of none of the {len(entries)} concepts in its dataset.json, such as "
            f"{shown(folder / entries[0][0]) if entries else 'any'}; unpack benchmark_dataset.zip into it"
        )
    return found


def _prompts(file: Path) -> tuple[str, ...]:
    """Read a prompt with one `{}` from each line."""
    if not file.is_file():
        raise OpadError(f"{shown(file)} is missing; copy the folder `prompts` beside dataset.json")
    lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if wrong := [line for line in lines if line.count("{}") != 1 or line.count("{") != 1]:
        raise OpadError(f"{shown(file)} has a prompt without exactly one {{}}: {wrong[0]}")
    return tuple(lines)
