from opad_core.generation.prompt_warnings import prompt_warnings


def warnings_of(base, prompt):
    return prompt_warnings(base.manifest, base.text, prompt=prompt, class_noun="dog")


def test_each_unknown_word_is_named_once(base):
    assert warnings_of(base, "a <concept>, a ZEBRA and a zebra on the beach") == [
        "nano does not know 'zebra' and may ignore it",
        "nano does not know 'and' and may ignore it",
    ]
    assert warnings_of(base, "a <concept>, a mug on the beach") == []


def test_the_end_of_a_prompt_that_is_too_long_is_quoted(base):
    assert warnings_of(base, "a photo of <concept> " + "on the beach " * 6 + "at night") == [
        "the prompt is longer than nano reads; it ignores the end: 'beach at night'"
    ]
