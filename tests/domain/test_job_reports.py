"""What a heartbeat stores of a trainer's reports."""

from dataclasses import replace

from api.domain.job_reports import MAX_ITERATIONS, JobProgress

PROGRESS = JobProgress("distillation", 12, 40, None, {"rec": 0.5}, None)


def test_an_unsent_progress_leaves_its_iterations_to_the_next():
    unsent = replace(PROGRESS, step=10, iterations={9: {"rec": 0.9}, 10: {"rec": 0.8}})
    newest = replace(PROGRESS, iterations={11: {"rec": 0.7}, 12: {"rec": 0.5}})
    assert newest.following(unsent) == replace(
        PROGRESS, iterations={9: {"rec": 0.9}, 10: {"rec": 0.8}, 11: {"rec": 0.7}, 12: {"rec": 0.5}}
    )


def test_an_iteration_that_ran_again_after_a_rollback_counts_once():
    unsent = replace(PROGRESS, iterations={11: {"rec": 90.0}, 12: {"rec": 99.0}})
    again = replace(PROGRESS, iterations={12: {"rec": 0.5}})
    assert again.following(unsent).iterations == {11: {"rec": 90.0}, 12: {"rec": 0.5}}


def test_a_database_that_is_away_for_long_costs_the_oldest_iterations():
    unsent = replace(PROGRESS, iterations={step: {"rec": 1.0} for step in range(MAX_ITERATIONS)})
    kept = replace(PROGRESS, iterations={MAX_ITERATIONS: {"rec": 0.5}}).following(unsent).iterations
    assert (len(kept), min(kept), max(kept)) == (MAX_ITERATIONS, 1, MAX_ITERATIONS)


def test_losses_are_stored_finite_and_those_of_the_curves_short():
    losses = {"rec": 0.123456789, "mse": float("nan")}
    columns = replace(PROGRESS, losses=losses, iterations={12: losses}).columns()
    assert columns["losses"] == {"rec": 0.123456789}
    assert columns["iterations"] == [{"step": 12, "losses": {"rec": 0.12346}}]
