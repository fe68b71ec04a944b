"""The typical time of a training, from past trainings in a real PostgreSQL."""

from uuid import UUID

from api.domain import jobs
from api.domain.tables import Concept, Job
from api.domain.training_times import (
    StageTime,
    TrainingTime,
    past_timings,
    stage_after,
    stage_iterations,
    timing,
    typical_time,
    undone_iterations,
)

PLAN = {"distillation": 100, "collaborative": 10}


def a_time(iteration_seconds):
    stages = {"distillation": StageTime(12.0, iteration_seconds), "collaborative": StageTime(3.0, 0.5)}
    return TrainingTime(stages, 8.0, "measured")


def train(sessions, job_id: UUID, iteration_seconds: float, *, worker: str = "w", device: str = "cpu") -> None:
    with sessions.begin() as db:
        _, fence, _ = db.execute(jobs.claim(worker, lease_seconds=60, job_id=job_id)).one()
    kept = timing(a_time(iteration_seconds), device)
    with sessions.begin() as db:
        db.execute(jobs.finish(job_id, fence, key=str(job_id), sha256="00", size=1, timing=kept)).one()


def predict(sessions, *, base="nano", method="opad", preset="default", device="cpu", worker=None):
    with sessions() as db:
        past = db.execute(past_timings(base=base, method=method, preset=preset)).all()
    return typical_time(past, base=base, method=method, preset=preset, device=device, worker=worker)


def test_a_past_training_predicts_the_next(sessions, make_job):
    train(sessions, make_job(), 0.25)

    found = predict(sessions)

    assert found.source == "history"
    # 12 + 100 x 0.25, 3 + 10 x 0.5, and 8 at the end
    assert found.seconds(PLAN) == 53.0
    assert found.seconds({"distillation": 20, "collaborative": 0}) == 12 + 20 * 0.25 + 8


def test_the_median_of_the_newest_five_counts(sessions, make_job):
    for seconds in (90.0, 1.0, 2.0, 30.0, 3.0, 4.0):  # the oldest is left out
        train(sessions, make_job(), seconds)

    assert predict(sessions).stages["distillation"] == StageTime(12.0, 3.0)


def test_another_method_preset_device_or_base_does_not_count(sessions, make_job):
    train(sessions, make_job(method="custom_diffusion"), 6.0)
    train(sessions, make_job(preset="paper"), 7.0)
    train(sessions, make_job(), 8.0, device="cuda")
    other = make_job()
    train(sessions, other, 9.0)
    with sessions.begin() as db:
        db.get_one(Concept, db.get_one(Job, other).concept_id).base = "another"

    assert predict(sessions).source == "estimate"
    assert predict(sessions, device="cuda").stages["distillation"].iteration_seconds == 8.0
    assert predict(sessions, method="custom_diffusion").stages["distillation"].iteration_seconds == 6.0
    assert predict(sessions, preset="paper").stages["distillation"].iteration_seconds == 7.0
    assert predict(sessions, base="another").stages["distillation"].iteration_seconds == 9.0


def test_a_worker_with_a_past_of_its_own_is_predicted_by_it(sessions, make_job):
    train(sessions, make_job(), 1.0, worker="slow")
    train(sessions, make_job(), 0.1, worker="fast")

    assert predict(sessions, worker="slow").stages["distillation"].iteration_seconds == 1.0
    assert predict(sessions, worker="new").stages["distillation"].iteration_seconds == 0.55


def test_a_base_without_a_past_or_a_documented_time_is_unknown(sessions):
    assert predict(sessions, base="mine") is None


def test_a_training_with_a_stage_of_unknown_time_is_unknown():
    time = TrainingTime({"distillation": StageTime(1.0, 1.0)}, 0.0, "history")
    assert time.seconds(PLAN) is None
    assert time.seconds({"distillation": 5, "collaborative": 0}) == 6.0


def test_the_plan_counts_both_trainings_of_teacher_first():
    values = {"iterations": 100, "teacher_first": True, "collaborative_iterations": 30}
    assert stage_iterations("opad", values) == {"distillation": 200, "collaborative": 30}


def test_another_method_has_one_stage():
    assert stage_iterations("custom_diffusion", {"iterations": 100, "class_images": 8}) == {"training": 100}


def test_a_resumed_training_has_its_rest_left():
    assert undone_iterations(PLAN, 0) == {"distillation": 100, "collaborative": 10}
    assert undone_iterations(PLAN, 60) == {"distillation": 40, "collaborative": 10}
    assert undone_iterations(PLAN, 103) == {"distillation": 0, "collaborative": 7}


def test_the_stage_of_the_next_iteration_follows_from_the_plan():
    assert [stage_after(PLAN, step) for step in (0, 99, 100, 109, 110)] == [
        "distillation", "distillation", "collaborative", "collaborative", None
    ]  # fmt: skip
    assert stage_after({"distillation": 5, "collaborative": 0}, 5) is None
