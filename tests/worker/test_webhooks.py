import base64
import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

import pytest
from sqlalchemy import func, select, update
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from api.domain import jobs, webhooks
from api.domain.tables import Job, Webhook, WebhookDelivery
from api.domain.webhooks import RETRY_DELAYS, new_secret
from tests.job_life import read_job, wait_until
from worker import webhooks as sending


class Receiver(ThreadingHTTPServer):
    """Answers with each of `answers`, then repeats the last one, and stores the requests."""

    def __init__(self):
        self.answers = [(204, {})]
        self.came = []
        self.pause = threading.Event()
        self.pause.set()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hook?for=opad"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.came.append((self.path, self.headers, body))
        self.server.pause.wait(10)
        status, headers = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.pause.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def settings(settings):
    """Settings that allow a receiver on the same machine."""
    return settings.model_copy(update={"webhooks_to_private_addresses": True})


@pytest.fixture
def hook(sessions, make_job, receiver):
    """Create a webhook for every event of a new job's owner. Return both ids."""

    def make(**columns):
        job_id = make_job()
        values = {"url": receiver.url, "events": list(webhooks.JOB_EVENTS), "secret": new_secret(), **columns}
        with sessions.begin() as db:
            webhook = Webhook(owner_id=db.get_one(Job, job_id).owner_id, **values)
            db.add(webhook)
        return webhook, job_id

    return make


@pytest.fixture
def cancelled(hook, sessions):
    """Create a webhook and the message that its job was cancelled."""

    def make(**columns):
        webhook, job_id = hook(**columns)
        with sessions.begin() as db:
            db.execute(jobs.request_cancel(job_id)).one()
        return webhook, only_delivery(sessions)

    return make


def deliveries(sessions):
    with sessions() as db:
        return list(db.scalars(select(WebhookDelivery).order_by(WebhookDelivery.number)))


def only_delivery(sessions):
    (delivery,) = deliveries(sessions)
    return delivery


def make_due(sessions):
    with sessions.begin() as db:
        db.execute(update(WebhookDelivery).where(WebhookDelivery.state == "pending").values(next_try_at=func.now()))


def claim(db, job_id):
    return db.execute(jobs.claim("w1", lease_seconds=60, job_id=job_id)).one().fence


LOST = {"lease_seconds": 60, "max_attempts": 1}
BUNDLE = {"key": "k", "sha256": "0", "size": 1}
ENDS = {
    "finish": (lambda db, job_id, fence: db.execute(jobs.finish(job_id, fence, **BUNDLE)), "job.succeeded"),
    "fail": (lambda db, job_id, fence: db.execute(jobs.fail(job_id, fence, code="oom", detail="x")), "job.failed"),
    "cancel": (lambda db, job_id, fence: db.execute(jobs.cancel(job_id, fence)), "job.cancelled"),
    "last attempt lost": (
        lambda db, job_id, fence: db.execute(jobs.lose_attempt(job_id, fence, cause="oom", detail=None, **LOST)),
        "job.failed",
    ),
    "last lease run out": (
        lambda db, job_id, fence: (
            db.execute(update(Job).where(Job.id == job_id).values(lease_until=func.now() - timedelta(seconds=1))),
            db.execute(jobs.expire_leases(**LOST)),
        ),
        "job.failed",
    ),
    "worker gone": (lambda db, job_id, fence: db.execute(jobs.lose_attempts_of("w1", **LOST)), "job.failed"),
    "given back after a wish": (
        lambda db, job_id, fence: (db.execute(jobs.request_cancel(job_id)), db.execute(jobs.requeue(job_id, fence))),
        "job.cancelled",
    ),
}


@pytest.mark.parametrize("way", ENDS)
def test_every_end_of_a_job_makes_one_message_for_its_owners_webhooks(way, hook, sessions):
    webhook, job_id = hook()
    hook()  # a webhook of another owner gets no message
    end, event = ENDS[way]
    with sessions.begin() as db:
        fence = claim(db, job_id)
        end(db, job_id, fence)
    delivery = only_delivery(sessions)
    job = read_job(sessions, job_id)
    assert (delivery.webhook_id, delivery.event, delivery.state) == (webhook.id, event, "pending")
    assert delivery.payload["type"] == event
    assert datetime.fromisoformat(delivery.payload["timestamp"]) == job.finished_at
    assert delivery.payload["data"] == {
        "job_id": str(job_id),
        "concept_id": str(job.concept_id),
        "version": 1,
        "state": job.state.value,
        "error": {"code": job.error_code, "detail": job.error_detail} if job.error_code else None,
    }


def test_other_changes_and_rolled_back_ones_and_disabled_webhooks_make_no_message(hook, sessions):
    _, job_id = hook()
    _, other = hook(events=["job.failed"])
    _, third = hook(disabled_at=datetime.now(UTC))
    with sessions.begin() as db:
        fence = claim(db, job_id)
        db.execute(jobs.request_cancel(job_id))
        db.execute(update(Job).where(Job.id == job_id).values(cancel_requested_at=None))
        db.execute(jobs.requeue(job_id, fence))
        db.execute(jobs.request_cancel(other))
        db.execute(jobs.request_cancel(third))
    with sessions() as db:
        db.execute(jobs.request_cancel(job_id)).one()
        db.rollback()
    assert deliveries(sessions) == []


def test_a_webhook_gets_only_the_events_that_it_names(hook, sessions):
    _, job_id = hook(events=["job.failed", "job.cancelled"])
    with sessions.begin() as db:
        db.execute(jobs.finish(job_id, claim(db, job_id), **BUNDLE)).one()
    assert deliveries(sessions) == []


def test_a_secret_is_32_random_bytes_in_base64():
    assert new_secret().startswith("whsec_")
    assert len(base64.b64decode(new_secret().removeprefix("whsec_"))) == 32


def test_only_due_messages_are_claimed(hook, sessions):
    webhook, _ = hook()
    with sessions.begin() as db:
        for number, delay in enumerate((timedelta(seconds=1), timedelta(0), timedelta(seconds=1)), 1):
            db.add(WebhookDelivery(id=UUID(int=number), webhook_id=webhook.id, event="webhook.ping", payload={},
                                   next_try_at=func.now() + delay))  # fmt: skip
        db.flush()
        claimed = webhooks.claim_due(db, limit=9, busy=timedelta(seconds=60))
    assert [delivery.id for delivery, _ in claimed] == [UUID(int=2)]


def test_a_delivery_is_recorded_once(cancelled, sessions):
    cancelled()
    with sessions.begin() as db:
        ((delivery, _),) = webhooks.claim_due(db, limit=1, busy=timedelta(seconds=60))
        db.expunge_all()
        assert webhooks.record_arrival(db, delivery, {"status": 200}) is True
        assert webhooks.record_arrival(db, delivery, {"status": 200}) is False


def test_a_message_arrives_signed(cancelled, settings, sessions, receiver):
    webhook, delivery = cancelled()
    assert sending.deliver_due(settings, sessions) == 1
    ((path, headers, body),) = receiver.came
    assert path == "/hook?for=opad"
    assert headers["webhook-id"] == f"msg_{delivery.id.hex}"
    assert headers["content-type"] == "application/json"
    assert Verifier(webhook.secret).verify(body, dict(headers)) == delivery.payload
    with pytest.raises(WebhookVerificationError):
        Verifier(new_secret()).verify(body, dict(headers))
    after = only_delivery(sessions)
    assert (after.state, after.tries, after.next_try_at) == ("delivered", 1, None)
    assert [entry["status"] for entry in after.log] == [204]
    assert sending.deliver_due(settings, sessions) == 0


def test_during_the_grace_period_of_a_rotation_both_secrets_verify(cancelled, settings, sessions, receiver, subtests):
    old = new_secret()
    for grace, verifies in (timedelta(minutes=1), True), (-timedelta(minutes=1), False):
        with subtests.test(grace=grace):
            receiver.came.clear()
            with sessions.begin() as db:
                db.execute(WebhookDelivery.__table__.delete())
            webhook, _ = cancelled(previous_secret=old, previous_until=datetime.now(UTC) + grace)
            sending.deliver_due(settings, sessions)
            ((_, headers, body),) = receiver.came
            assert Verifier(webhook.secret).verify(body, dict(headers))
            assert len(headers["webhook-signature"].split(" ")) == 1 + verifies
            if verifies:
                assert Verifier(old).verify(body, dict(headers))


def test_a_failed_message_is_sent_again_later_with_the_same_id(cancelled, settings, sessions, receiver):
    cancelled()
    receiver.answers = [(500, {}), (200, {})]
    sending.deliver_due(settings, sessions)
    after = only_delivery(sessions)
    pause = after.next_try_at - datetime.now(UTC)
    assert (after.state, after.tries) == ("pending", 1)
    assert timedelta(seconds=2) < pause <= timedelta(seconds=5.5), "5 s and up to a tenth more"
    assert sending.deliver_due(settings, sessions) == 0, "not before its time"
    make_due(sessions)
    sending.deliver_due(settings, sessions)
    assert [entry["status"] for entry in only_delivery(sessions).log] == [500, 200]
    assert len({headers["webhook-id"] for _, headers, _ in receiver.came}) == 1


def test_the_delays_are_those_of_standard_webhooks():
    seconds = [pause.total_seconds() for pause in RETRY_DELAYS]
    assert seconds == [0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400]


def test_the_delay_is_never_shorter_than_announced(cancelled, sessions):
    cancelled()
    with sessions.begin() as db:
        ((delivery, _),) = webhooks.claim_due(db, limit=1, busy=timedelta(seconds=60))
        assert webhooks.record_failure(db, delivery, {"status": 500}) == "pending"
        pause = db.scalar(select(WebhookDelivery.next_try_at - func.now()))
    assert timedelta(seconds=5) <= pause <= timedelta(seconds=5.5)


def test_a_message_is_given_up_after_ten_tries_over_three_days(cancelled, settings, sessions, receiver):
    cancelled()
    receiver.answers = [(503, {})]
    for _ in RETRY_DELAYS:
        make_due(sessions)
        assert sending.deliver_due(settings, sessions) == 1
    after = only_delivery(sessions)
    assert (after.state, len(after.log)) == ("failed", 10)
    assert sum(RETRY_DELAYS, timedelta()) == timedelta(hours=75, minutes=35, seconds=5)
    make_due(sessions)
    assert sending.deliver_due(settings, sessions) == 0


def test_a_busy_receiver_sets_the_delay(cancelled, settings, sessions, receiver):
    cancelled()
    receiver.answers = [(429, {"Retry-After": "900"})]
    sending.deliver_due(settings, sessions)
    pause = only_delivery(sessions).next_try_at - datetime.now(UTC)
    assert timedelta(seconds=890) < pause <= timedelta(seconds=900)


def test_status_410_disables_the_webhook(cancelled, settings, sessions, receiver):
    webhook, _ = cancelled()
    with sessions.begin() as db:
        later = func.now() + timedelta(hours=1)
        db.add(WebhookDelivery(webhook_id=webhook.id, event="webhook.ping", payload={}, next_try_at=later))
    receiver.answers = [(410, {})]
    sending.deliver_due(settings, sessions)
    assert [delivery.state for delivery in deliveries(sessions)] == ["failed", "failed"]
    with sessions() as db:
        assert db.get_one(Webhook, webhook.id).disabled_at is not None


def test_a_redirect_is_a_failure_and_not_followed(cancelled, settings, sessions, receiver):
    cancelled()
    receiver.answers = [(307, {"Location": receiver.url + "&again"}), (200, {})]
    sending.deliver_due(settings, sessions)
    assert len(receiver.came) == 1
    assert only_delivery(sessions).log[0]["status"] == 307


def test_a_receiver_that_does_not_answer_times_out(cancelled, settings, sessions, receiver, monkeypatch):
    monkeypatch.setattr(sending, "TRY_SECONDS", 0.5)
    cancelled()
    receiver.pause.clear()
    began = time.monotonic()
    sending.deliver_due(settings, sessions)
    assert time.monotonic() - began < 8
    assert "no answer within" in only_delivery(sessions).log[0]["error"] or (
        only_delivery(sessions).log[0]["error"] == "ReadTimeout"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "[::ffff:127.0.0.1]"])
def test_nothing_is_sent_into_the_private_network_unless_allowed(host, cancelled, settings, sessions):
    cancelled(url=f"https://{host}:8443/")
    strict = settings.model_copy(update={"webhooks_to_private_addresses": False})
    sending.deliver_due(strict, sessions)
    assert "private network" in only_delivery(sessions).log[0]["error"]


def test_a_name_is_resolved_once_and_the_checked_address_called(cancelled, settings, sessions, receiver, monkeypatch):
    lookups = []
    really = socket.getaddrinfo

    def rebinding(host, *arguments, **options):
        """A name server that returns an allowed address first and a private one afterwards."""
        if host == "receiver.example":
            lookups.append(host)
            host = "127.0.0.1" if len(lookups) == 1 else "127.0.0.2"
        return really(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    cancelled(url=f"http://receiver.example:{receiver.server_port}/")
    sending.deliver_due(settings, sessions)
    ((_, headers, _),) = receiver.came
    assert headers["host"] == f"receiver.example:{receiver.server_port}"
    assert len(lookups) == 1


def test_a_message_that_a_dead_sender_claimed_is_sent_by_another(cancelled, settings, sessions, receiver):
    cancelled()
    with sessions.begin() as db:
        ((stale, _),) = webhooks.claim_due(db, limit=1, busy=timedelta(seconds=60))
    assert sending.deliver_due(settings, sessions) == 0, "it may still be at it"
    make_due(sessions)
    assert sending.deliver_due(settings, sessions) == 1
    with sessions.begin() as db:
        assert webhooks.record_failure(db, stale, {"status": 500}) is None, "too late, another sender has reported"
    assert only_delivery(sessions).state == "delivered"


def test_old_messages_are_deleted_and_waiting_ones_kept(cancelled, sessions):
    webhook, _ = cancelled()
    with sessions.begin() as db:
        db.add(WebhookDelivery(webhook_id=webhook.id, event="webhook.ping", payload={}, state="delivered"))
        db.flush()
        db.execute(update(WebhookDelivery).values(created_at=func.now() - timedelta(days=31)))
        webhooks.drop_old(db)
    assert only_delivery(sessions).state == "pending"


def test_the_reconciler_delivers_messages(hook, settings, sessions, receiver, start_process):
    start_process(settings.model_copy(update={"poll_seconds": 0.2}), "worker.reconcile")
    _, job_id = hook()
    with sessions.begin() as db:
        db.execute(jobs.request_cancel(job_id)).one()
    wait_until(lambda: receiver.came, seconds=120, what="a message")
    assert json.loads(receiver.came[0][2])["data"]["job_id"] == str(job_id)
