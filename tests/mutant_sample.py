"""Small faults in the source: which files have them, which are chosen, and what their code is."""

import difflib
import json
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names


@dataclass(frozen=True)
class Group:
    sources: list[str]
    tests: list[str]
    """Files and folders."""
    without: tuple[str, ...] = ()

    def test_files(self) -> list[str]:
        found = [sorted(Path(name).rglob("test_*.py")) if Path(name).is_dir() else [name] for name in self.tests]
        return [str(file) for files in found for file in files if str(file) not in self.without]


METHOD = (
    "reference_images", "reference_folder",
    "training/loop", "training/method", "training/optimizer", "training/state", "training/data",
    "training/augmentation", "training/augmentation_cache", "training/divergence",
    "training/selection", "pixels", "methods/opad/method", "methods/opad/learners", "methods/opad/batches",
    "methods/opad/alignment", "methods/opad/discriminator", "methods/opad/losses", "methods/opad/collaboration",
    "methods/custom_diffusion", "methods/kv_preservation", "methods/reconstruction", "networks/schedule",
    "networks/denoiser", "networks/text_encoder", "adapters/key_value", "adapters/token",
)  # fmt: skip
GROUPS = {
    "method": Group(
        [f"opad_core/{name}.py" for name in METHOD],
        ["tests/opad_core"],
        # each takes minutes, and neither tests what the method computes
        without=("tests/opad_core/nano/test_build.py", "tests/opad_core/test_flops.py"),
    ),
    "service": Group(
        [f"api/domain/{name}.py" for name in ("jobs", "job_log", "keys", "replaced_bases", "retention", "webhooks")]
        + ["worker/inference/batching.py"],
        ["tests/domain", "tests/worker/inference/test_batching.py"]
        + [f"tests/worker/test_{name}.py" for name in ("claiming", "nightly", "reconcile", "trainer_log", "webhooks")]
        + [
            f"tests/api/test_{name}.py"
            for name in ("auth", "care", "job_history", "jobs", "keys", "replaced_base", "webhooks")
        ],
    ),
}
NO_FAULT = re.compile(
    r"NoOp|Variable(Inserter|Replacer)|BinaryOperator_BitOr_"  # `|` is in annotations, which fail at import
    r"|BinaryOperator_(?!Bit)\w+_(Bit\w+|LShift|RShift)$"  # bits of floats, tensors and times: always a TypeError
    r"|ComparisonOperator_(?!Is)\w+_Is(Not)?$|ComparisonOperator_Is(Not)?_(?!Is)"  # identity: random, or a TypeError
    r"|UnaryOperator_\w+_Invert$"
)
"""Operators that are not used, because any test kills their mutants or because they change nothing."""
SIMPLE = {"simple_stmt", "if_stmt", "while_stmt", "for_stmt", "try_stmt", "with_stmt", "match_stmt"}


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    first: int
    last: int
    """Lines of the statement with the change, or of the whole function if the change is in its signature."""
    operator: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.operator.removeprefix('core/')} {self.occurrence}"

    def code(self, original: str) -> str:
        return mutate_code(original, get_operator(self.operator)(), self.occurrence)


def mutants_of(file: str) -> Iterator[Mutant]:
    tree = get_ast(Path(file).read_text())
    for name in sorted(operator_names()):
        if NO_FAULT.search(name):
            continue
        operator, occurrence = get_operator(name)(), 0
        for node in ast_nodes(tree):
            for (line, column), _ in operator.mutation_positions(node):
                leaf = tree.get_leaf_for_position((line, column))
                if leaf.parent.type != "parameters":  # the `*` before keyword-only parameters
                    around = leaf.search_ancestor("decorated", "funcdef", "classdef", *SIMPLE) or leaf
                    # only the head of an `if` or a loop; its body consists of other statements
                    last = line if around.type in SIMPLE - {"simple_stmt"} else around.end_pos[0]
                    yield Mutant(file, line, around.start_pos[0], last, name, occurrence)
                occurrence += 1


def sample(group: Group, size: int, seed: int) -> list[Mutant]:
    """Return the first mutants in a random order, so that a larger sample contains the smaller one."""
    everything = [mutant for file in group.sources for mutant in mutants_of(file)]
    random.Random(seed).shuffle(everything)
    chosen: list[Mutant] = []
    for mutant in everything:
        if len(chosen) == size:
            break
        try:
            compile(mutant.code(Path(mutant.file).read_text()), mutant.file, "exec")
        except SyntaxError:
            continue
        chosen.append(mutant)
    print(f"{len(chosen)} of {len(everything)} mutants chosen", file=sys.stderr)
    return chosen


def sample_of(group: Group, results: Path) -> list[Mutant]:
    """Return the mutants of an earlier run whose line still exists, in the same order."""
    earlier = [(name.split()[1], one) for name, one in json.loads(results.read_text())["mutants"].items()]
    wanted = {(one["file"], operator, one["before"], one["after"]): i for i, (operator, one) in enumerate(earlier)}
    lines = {(file, operator, line) for file, operator, before, _ in wanted for line in before.splitlines()}
    found: dict[int, Mutant] = {}
    for file in group.sources:
        source = Path(file).read_text().splitlines()
        for mutant in mutants_of(file):
            operator = mutant.operator.removeprefix("core/")
            if (file, operator, source[mutant.line - 1].strip()) in lines:
                index = wanted.get((file, operator, *changed(mutant)))
                if index is not None:
                    found[index] = mutant
    print(f"{len(found)} of {len(earlier)} mutants are still possible", file=sys.stderr)
    return [found[index] for index in sorted(found)]


def changed(mutant: Mutant) -> tuple[str, str]:
    """Return the changed lines before and after."""
    original = Path(mutant.file).read_text()
    lines = list(difflib.ndiff(original.splitlines(), mutant.code(original).splitlines()))
    before, after = ("\n".join(line[2:].strip() for line in lines if line[0] == sign).strip() for sign in "-+")
    return before, after
