import json

from bench.part_runner import has_failed, run_parts, table


def fails():
    yield {"first": 1}
    raise ValueError("no\nsecond figure")


def works():
    yield {"p50_ms": 12.34567}
    yield {"p95_ms": 20}


def test_a_part_that_fails_says_why_and_the_next_one_runs(capsys):
    results = run_parts({"broken": fails, "whole": works}, about={"gpu": "none"}, seconds=60, late=60)
    assert results == [
        ("machine", {"gpu": "none"}),
        ("broken", {"first": 1}),
        ("broken", {"error": "ValueError: no second figure"}),
        ("whole", {"p50_ms": 12.35}),
        ("whole", {"p95_ms": 20}),
    ]
    assert has_failed(results)
    assert not has_failed(results[3:])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["part"], line["at_s"] >= 0) for line in lines] == [(part, True) for part, _ in results]


def test_a_table_has_the_last_value_of_each_figure():
    results = [("image", {"p50_ms": 12.3}), ("image", {"p95_ms": 20, "p50_ms": 12.5}), ("train", {"error": "x"})]
    assert table(results).splitlines()[2:] == [
        "| image | p50_ms | 12.5 |",
        "| image | p95_ms | 20 |",
        "| train | error | x |",
    ]
