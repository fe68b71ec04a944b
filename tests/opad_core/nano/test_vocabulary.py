import itertools

from opad_core.nano.build.architecture import TEXT_LENGTH
from opad_core.nano.build.vocabulary import (
    DRAWINGS,
    HELD_OUT,
    NOUNS,
    PATTERN_COLORS,
    PATTERNS,
    SCENE_PROMPTS,
    SCENES,
    TEMPLATES,
    all_words,
    with_article,
)
from opad_core.networks.tokenizer import build_tokenizer


def captions():
    prompts = [template.text for template in TEMPLATES] + list(SCENE_PROMPTS)
    patterns = ["", *(f" with {ink} {pattern}" for ink, pattern in itertools.product(PATTERN_COLORS, PATTERNS))]
    patterned = [noun + patterns[index % len(patterns)] for index, noun in enumerate(NOUNS)]
    return [with_article(prompt.format(noun)) for prompt, noun in itertools.product(prompts, patterned)]


def test_every_word_of_every_caption_is_one_token(tmp_path):
    tokenizer = build_tokenizer(all_words(), tmp_path, length=24)
    for caption in captions():
        words = caption.replace("-", " - ").split()
        assert len(tokenizer(caption).input_ids) == len(words) + 2, caption  # start and end
        assert set(words) <= set(all_words())


def test_token_ids_decode_to_the_caption(tmp_path):
    tokenizer = build_tokenizer(all_words(), tmp_path, length=24)
    for caption in ("a photo of a teddy bear", "an owl floating on top of water", "a cactus"):
        assert tokenizer.decode(tokenizer(caption).input_ids, skip_special_tokens=True).strip() == caption


def test_an_unknown_word_is_split_into_letters(tmp_path):
    tokenizer = build_tokenizer(["cat"], tmp_path, length=24)
    assert tokenizer.tokenize("cat zoo") == ["cat</w>", "z", "o", "o</w>"]


def test_words_that_share_letters_stay_whole(tmp_path):
    words = ["bear", "beach", "each", "ear", "car", "cart", "art"]
    tokenizer = build_tokenizer(words, tmp_path, length=24)
    assert [tokenizer.tokenize(word) for word in words] == [[f"{word}</w>"] for word in words]


def test_captions_leave_room_for_a_concept_word():
    phrases = [phrase for scene in SCENES.values() for phrase in scene.phrases]
    patterned = [template.text.format("red teddy bear with red stripes") for template in TEMPLATES]
    longest = max(len(f"{text} {phrase}".replace("-", " - ").split()) for text in patterned for phrase in phrases)
    assert longest + 3 <= TEXT_LENGTH  # start, end, V*


def test_articles_follow_the_next_word():
    assert with_article("a photo of a orange owl") == "a photo of an orange owl"


def test_held_out_drawings_are_not_in_training():
    trained = {drawing for drawings in DRAWINGS.values() for drawing in drawings}
    held_out = {drawing for drawings in HELD_OUT.values() for drawing in drawings}
    assert not trained & held_out


def test_the_world_has_enough_nouns_drawings_and_scenes():
    assert len(DRAWINGS) >= 100
    assert all(len(drawings) >= 2 for drawings in DRAWINGS.values())
    assert len(SCENES) >= 20
