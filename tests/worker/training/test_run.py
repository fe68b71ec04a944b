"""How a trainer reports the end of its job, on a real base with random weights."""

import shutil

import pytest
from safetensors.torch import load
from sqlalchemy import func, select, update

from api.domain import jobs
from api.domain.storage import Storage, job_image_key
from api.domain.tables import Attempt, Bundle, Concept, Export, Job, JobState, Reference
from api.domain.training_times import past_timings, typical_time
from api.domain.wall_time import PARTS
from api.read_marks import read_marks
from opad_core.generation.bundle import read_bundle
from tests.gpu import pretend_gpu
from tests.job_life import checkpoints_of, read_job
from tests.random_base import add_scene_prompts, claim_resolution, write_random_base
from worker.training.job import Claim
from worker.training.lease import EXIT_LEASE_LOST
from worker.training.run import run


@pytest.fixture
def quick(quick):
    """Settings with a lease of a minute, because the watchdog would end the process of the tests."""
    return quick.model_copy(update={"lease_seconds": 60.0})


@pytest.fixture
def claimed(sessions, queue_training):
    """Queue a training and claim it with fence 1, as the host does."""
    job_id = queue_training(iterations=2)
    with sessions.begin() as db:
        db.execute(jobs.claim("w1", lease_seconds=60)).one()
    return Claim(job_id, 1)


def never() -> bool:
    return False


def test_a_training_ends_with_a_bundle_progress_and_a_preview(quick, sessions, claimed):
    assert run(claimed, quick, never) == 0
    job = read_job(sessions, claimed.job_id)
    assert (job.state, job.stage, job.step, job.total_steps) == (JobState.succeeded, "collaborative", 4, 4)
    assert job.losses.keys() >= {"rec", "mse", "id", "swd"}
    storage = Storage(quick)
    assert read_marks(storage.read(job.preview_key), trusted="")["generated"]
    with sessions.begin() as db:
        bundle = db.scalars(select(Bundle)).one()
    learned = read_bundle(storage.get(bundle.key, bundle.sha256))
    assert (learned.class_noun, learned.base_sha256) == ("mug", bundle.base_sha256)
    assert bundle.report.keys() == {
        "prompts", "seeds", "personalised", "untouched", "fast_decoder", "verdict", "images", "ended_early"
    }  # fmt: skip
    assert bundle.report["verdict"]["sentence"]
    assert len(bundle.report["images"]) == 4
    for sha256 in bundle.report["images"]:
        marks = read_marks(storage.get(job_image_key(job.id, sha256), sha256), trusted="")
        assert (marks["generated"], marks["origin"]) == (True, {"bundle": bundle.sha256})
    assert bundle.report["personalised"].keys() == bundle.report["untouched"].keys() >= {"identity", "copies"}
    assert storage.delete_prefix(f"jobs/{job.id}/f") == 0, "its checkpoints are gone"


def test_a_training_that_has_learned_ends_early_and_says_why(quick, sessions, queue_training, tmp_path, capfd):
    folder = shutil.copytree(quick.base, tmp_path / "base")
    add_scene_prompts(folder)
    queue_training(iterations=8, eval_every=1, patience=1, min_gain=9.0)  # no score rises by 9
    with sessions.begin() as db:
        job_id, fence, _ = db.execute(jobs.claim("w1", lease_seconds=60)).one()
    assert run(Claim(job_id, fence), quick.model_copy(update={"base": str(folder)}), never) == 0
    job = read_job(sessions, job_id)
    assert (job.state, job.stage, job.step, job.total_steps) == (JobState.succeeded, "distillation", 2, 2)
    with sessions.begin() as db:
        report = db.scalars(select(Bundle.report)).one()
    assert report["ended_early"].startswith("Learned after 2 of at most 10 iterations: ")
    assert "training.ended_early" in capfd.readouterr().out


def test_a_training_keeps_its_times_for_the_next_one(quick, sessions, queue_training):
    queue_training(iterations=8)
    with sessions.begin() as db:
        job_id, fence, _ = db.execute(jobs.claim("w1", lease_seconds=60)).one()
    assert run(Claim(job_id, fence), quick, never) == 0
    with sessions.begin() as db:
        past = db.execute(past_timings(base="nano", method="opad", preset="default")).all()
    assert [(worker, times["device"], times["stages"].keys()) for worker, times in past] == [
        ("w1", "cpu", {"distillation"})  # two collaborative iterations are too few
    ]
    expected = typical_time(past, base="nano", method="opad", preset="default", device="cpu")
    assert expected.source == "history"
    assert expected.stages["distillation"].iteration_seconds > 0
    assert expected.finish_seconds > 0


def test_a_job_learns_by_its_method_in_one_stage(quick, sessions, queue_training):
    queue_training(iterations=8, method="custom_diffusion", class_images=2)
    with sessions.begin() as db:
        job_id, fence, _ = db.execute(jobs.claim("w1", lease_seconds=60)).one()
    assert run(Claim(job_id, fence), quick, never) == 0
    job = read_job(sessions, job_id)
    assert (job.state, job.stage, job.step, job.total_steps) == (JobState.succeeded, "training", 8, 8)
    assert job.losses.keys() == {"rec", "prior"}
    with sessions.begin() as db:
        bundle = db.scalars(select(Bundle)).one()
        attempt = db.scalars(select(Attempt)).one()
        exports = set(db.scalars(select(Export.layout)))
    manifest = read_bundle(Storage(quick).get(bundle.key, bundle.sha256)).manifest
    assert (manifest["method"], manifest["config"]["class_images"]) == ("custom_diffusion", 2)
    assert manifest["config"]["lambda_kv_preservation"] == 1.0, "the value on this base"
    assert exports == {"diffusers", "kohya", "textual_inversion"}
    assert bundle.report["verdict"]["sentence"]
    assert attempt.wall_time.keys() == set(PARTS) - {
        "distillation", "collaborative", "compile", "evaluations", "unreported"
    }  # fmt: skip
    assert attempt.timing["stages"].keys() == {"training"}
    with sessions.begin() as db:
        past = {
            method: db.execute(past_timings(base="nano", method=method, preset="default")).all()
            for method in ("opad", "custom_diffusion")
        }
    assert [len(times) for times in past.values()] == [0, 1]


def test_the_parts_of_a_trainers_wall_time_sum_to_it(quick, sessions, queue_training, start_process):
    """In a process of its own, as a host starts it: the imports are most of such a short training."""
    job_id = queue_training(iterations=4)
    assert start_process(quick, "worker.one_job").wait(timeout=120) == 0
    with sessions.begin() as db:
        attempt = db.scalars(select(Attempt)).one()
    assert read_job(sessions, job_id).state is JobState.succeeded
    worked = (attempt.ended_at - attempt.started_at).total_seconds()
    assert sum(attempt.wall_time.values()) == pytest.approx(worked, rel=0.02)
    assert attempt.wall_time.keys() == set(PARTS) - {"training", "compile", "evaluations", "unreported"}


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
def test_a_job_that_ends_early_keeps_its_wall_time_as_far_as_it_got(quick, sessions, claimed, ending):
    with sessions.begin() as db:
        if ending == "cancelled":
            db.execute(jobs.request_cancel(claimed.job_id))
        else:
            db.execute(update(Concept).values(class_noun="teapot"))
    assert run(claimed, quick, never) == 0
    assert read_job(sessions, claimed.job_id).state == ending
    with sessions.begin() as db:
        attempt = db.scalars(select(Attempt)).one()
    assert attempt.wall_time.keys() - {"distillation"} == {"start", "load", "references", "checkpoints", "caches"}
    assert sum(attempt.wall_time.values()) <= (attempt.ended_at - attempt.started_at).total_seconds()


@pytest.mark.slow
def test_a_training_in_half_precision_says_so_and_ends_with_a_bundle(quick, sessions, claimed, capfd):
    assert run(claimed, quick.model_copy(update={"precision": "half"}), never) == 0
    assert read_job(sessions, claimed.job_id).state == JobState.succeeded
    assert "torch.float16" in capfd.readouterr().out


def test_a_training_leaves_its_bundle_in_other_tools_layouts(quick, sessions, claimed):
    assert run(claimed, quick, never) == 0
    storage = Storage(quick)
    with sessions.begin() as db:
        exports = {export.layout: export for export in db.scalars(select(Export).join(Bundle))}
    tensors = {layout: load(storage.get(export.key, export.sha256)) for layout, export in exports.items()}
    assert tensors.keys() == {"diffusers", "kohya", "textual_inversion"}
    assert all(name.startswith("unet.") for name in tensors["diffusers"])
    assert all(name.startswith("lora_unet_") for name in tensors["kohya"])
    assert tensors["textual_inversion"].keys() == {"emb_params"}
    assert 0 <= exports["kohya"].relative_error < 1
    assert exports["textual_inversion"].relative_error is None


def test_a_stopped_training_goes_back_to_the_queue_with_its_state(quick, sessions, claimed):
    answers = iter([False, True])
    assert run(claimed, quick.model_copy(update={"checkpoint_seconds": 3600}), lambda: next(answers)) == 0
    assert read_job(sessions, claimed.job_id).state is JobState.queued
    assert [row.step for row in checkpoints_of(sessions, claimed.job_id)] == [1]


def test_a_checkpoint_of_another_base_is_ignored(quick, sessions, claimed, tmp_path):
    """An upgrade replaced the base between two attempts."""
    answers = iter([False, True])
    assert run(claimed, quick, lambda: next(answers)) == 0
    with sessions.begin() as db:
        fence = db.execute(jobs.claim("w1", lease_seconds=60)).one().fence
    upgraded = quick.model_copy(update={"base": str(write_random_base(tmp_path / "upgraded", seed=1))})
    assert run(Claim(claimed.job_id, fence), upgraded, never) == 0
    assert read_job(sessions, claimed.job_id).state is JobState.succeeded


def test_a_cancelled_training_makes_no_bundle(quick, sessions, claimed):
    with sessions.begin() as db:
        db.execute(jobs.request_cancel(claimed.job_id))
    assert run(claimed, quick, never) == 0
    assert read_job(sessions, claimed.job_id).state is JobState.cancelled
    with sessions.begin() as db:
        assert db.scalars(select(Bundle)).all() == []


def test_a_gpu_that_is_too_small_ends_the_job_before_a_network_is_loaded(
    quick, sessions, claimed, tmp_path, monkeypatch
):
    """After the first attempt another program may have given its memory back, so there is a second one."""
    folder = shutil.copytree(quick.base, tmp_path / "base", ignore=shutil.ignore_patterns("teacher"))
    claim_resolution(folder, 512)
    pretend_gpu(monkeypatch, free=8 << 30, total=8 << 30)
    small = quick.model_copy(update={"base": str(folder), "device": "cuda"})
    assert run(claimed, small, never) == 0
    assert read_job(sessions, claimed.job_id).state is JobState.queued
    with sessions.begin() as db:
        db.execute(update(Job).values(run_after=func.now()))
        fence = db.execute(jobs.claim("w1", lease_seconds=60)).one().fence
    assert run(Claim(claimed.job_id, fence), small, never) == 0
    job = read_job(sessions, claimed.job_id)
    assert (job.state, job.error_code) == (JobState.failed, "oom")
    assert "needs 13.4 GiB of free GPU memory, and 8.0 GiB are free; stop other programs" in job.error_detail


def test_an_unknown_class_noun_fails_the_job_with_a_message(quick, sessions, claimed):
    with sessions.begin() as db:
        db.execute(update(Concept).values(class_noun="teapot"))
    assert run(claimed, quick, never) == 0
    job = read_job(sessions, claimed.job_id)
    assert (job.state, job.error_code) == (JobState.failed, "invalid")
    assert "does not know the class noun 'teapot'; it knows " in job.error_detail


def test_a_lost_reference_fails_the_job_as_storage(quick, sessions, claimed):
    with sessions.begin() as db:
        db.execute(update(Reference).where(Reference.position == 2).values(key="references/none.png"))
    assert run(claimed, quick, never) == 0
    job = read_job(sessions, claimed.job_id)
    assert (job.state, job.error_code) == (JobState.failed, "storage")
    assert "there is no object references/none.png" in job.error_detail


def test_an_outage_of_the_store_costs_an_attempt_but_not_the_job(quick, sessions, claimed):
    assert (
        run(
            claimed,
            quick.model_copy(update={"s3_endpoint": "http://127.0.0.1:9", "storage_retry_seconds": 1}),
            never,
        )
        == 0
    )
    job = read_job(sessions, claimed.job_id)
    assert (job.state, job.attempt, job.error_code) == (JobState.queued, 1, None)


def test_a_trainer_that_lost_its_job_reports_nothing(quick, sessions, claimed):
    quiet = quick.model_copy(update={"heartbeat_seconds": 3600.0, "lease_seconds": 7200.0})
    assert run(claimed, quiet, take_away(sessions)) == EXIT_LEASE_LOST
    assert read_job(sessions, claimed.job_id).fence == 2


def take_away(sessions):
    """Return a stop function that gives the job to another trainer and then returns True."""

    def stop() -> bool:
        with sessions.begin() as db:
            db.execute(update(Job).values(fence=2))
        return True

    return stop
