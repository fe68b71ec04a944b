"""The nightly sweep, and the command that previews it."""

from api.domain.tables import RetentionSweep
from tests.job_life import wait_until
from worker import cli


def test_the_reconciler_sweeps_when_a_day_has_not_been_swept(settings, sessions, start_process, notifications):
    start_process(settings, "worker.reconcile")

    def swept():
        with sessions() as db:
            return db.query(RetentionSweep).filter(RetentionSweep.finished_at.is_not(None)).one_or_none()

    sweep = wait_until(swept, seconds=60, what="the day's sweep")
    assert sweep.removed == {"images": 0, "references": 0, "failed_uploads": 0, "events": 0}


def test_the_command_previews_and_sweeps(settings, monkeypatch, capsys):
    for name, value in {
        "OPAD_DATABASE_URL": settings.database_url,
        "OPAD_HOME": str(settings.home),
        "OPAD_S3_ENDPOINT": settings.s3_endpoint,
        "OPAD_S3_ACCESS_KEY": settings.s3_access_key,
        "OPAD_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "OPAD_S3_BUCKET": settings.s3_bucket,
    }.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["retention", "--preview"]) == 0
    assert cli.main(["retention", "--sweep"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("would remove 0 images, 0 photos of trained concepts")
    assert printed[0].endswith("0 events; 0.0 MB")
    assert printed[1].startswith("removed 0 images")
