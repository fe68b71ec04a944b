import pytest

pytest.importorskip("cosmic_ray", reason="only `make slow` and `make mutants` install it")

from tests.mutant_sample import Mutant, mutants_of
from tests.mutants import LineMap, wilson

pytestmark = pytest.mark.slow


def test_annotations_and_the_marker_of_keyword_parameters_are_not_mutated(tmp_path):
    source = "def f(a: int | None, *, b: float) -> int | None:\n    return a + b\n"
    file = tmp_path / "f.py"
    file.write_text(source)
    codes = {mutant.code(source) for mutant in mutants_of(str(file))}
    assert codes == {source.replace("+", other) for other in ("-", "*", "/", "//", "%", "**")}


def test_the_interval_is_wilsons():
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-5)  # an example from a textbook
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=5e-5)


def test_a_mutant_is_tested_by_the_tests_of_its_statement_quickest_first():
    lines = LineMap(
        {
            "lines": {"f.py": {"1": [""], "2": ["a::slow", "a::quick"], "3": ["fixture base"]}},
            "seconds": {"a::slow": 9.0, "a::quick": 1.0, "a::none": 2.0, "b/test_f.py::base": 1.0, "fixture base": 5.0},
            "fixtures": {
                "a::slow": [],
                "a::quick": [],
                "a::none": [],
                "b/test_f.py::base": ["fixture base"],
                "c::": [],
            },
        }
    )

    def tests_of(first: int, last: int) -> list[str]:
        tests, left_out = lines.tests_for(Mutant("f.py", first, first, last, "core/AddNot", 0))
        assert left_out == 0, "16 seconds in all fit"
        return tests

    assert tests_of(2, 2) == ["a::quick", "a::slow"]
    assert tests_of(2, 3) == ["a::quick", "b/test_f.py::base", "a::slow"]
    # run at import: all tests of both files, first those of test_f.py
    assert tests_of(1, 1) == ["b/test_f.py::base", "a::quick", "a::none", "a::slow"]
    assert tests_of(5, 5) == [], "run by nothing"
