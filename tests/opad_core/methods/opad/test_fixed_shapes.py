"""An iteration has fixed shapes, and its code for the device compiles as one graph."""

import pytest
import torch

from opad_core.methods.opad.config import preset
from opad_core.methods.train import new_training
from opad_core.training.captured import kind_of
from opad_core.training.config import override
from opad_core.training.method import Step


def drawn(training, number):
    return training.method.draw(Step(number, training.seed, lambda: None))


def compared_with_a_target(inputs):
    return int(inputs["target.compared"].sum()) if "target.t" in inputs else 0


def test_the_number_of_compared_images_changes_no_shape(base, references):
    config = override(preset("paper", base.manifest.presets), {"max_target_timestep": 0.5, "iterations": 40})
    training = new_training(base, references, "dog", config, seed=1)
    kinds = {}
    for number in range(40):
        inputs = drawn(training, number)
        kinds.setdefault(compared_with_a_target(inputs), set()).add(kind_of(inputs))
    assert kinds.keys() == {0, 1, 2}
    assert kinds[1] == kinds[2]
    assert all(len(found) == 1 for found in kinds.values())


def test_times_of_the_target_are_uniform_whoever_is_compared(base, references):
    """None is drawn again or left out, so the loss stays the expectation over all times."""
    config = override(preset("paper", base.manifest.presets), {"max_target_timestep": 0.5, "iterations": 400})
    training = new_training(base, references, "dog", config, seed=1)
    count = sum(compared_with_a_target(drawn(training, number)) for number in range(400))
    # 800 times, each below half with probability .5: a standard deviation of 14.
    assert abs(count - 400) < 4 * 14


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"augmentation_cache": 0, "decode_crop": 0.5}])
def test_the_compiler_sees_one_graph_without_a_break(base, references, changes):
    config = override(preset("default", base.manifest.presets), {"batch_size": 2, "scene_share": 0.0} | changes)
    training = new_training(base, references, "dog", config, seed=1)
    method, inputs = training.method, drawn(training, 0)
    texts = method.student_prompts(inputs)
    _, _, fakes = method.student_losses(inputs, *texts)
    functions = {
        "prompts": (method.student_prompts, (inputs,)),
        "teacher": (method.teacher_loss, (inputs,)),
        "student": (method.student_losses, (inputs, *texts)),
        "discriminators": (method.discriminator_losses, (inputs, fakes)),
    }
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        for name, (function, arguments) in functions.items():
            torch._dynamo.reset()
            found = torch._dynamo.explain(function)(*arguments)
            assert found.graph_break_count == 0, f"{name}: {found.break_reasons[0].reason}"
            assert found.graph_count == 1
