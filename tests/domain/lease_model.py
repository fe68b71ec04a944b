"""A model of `api.domain.jobs` for one job in plain Python, where a schedule costs microseconds.

`test_lease_protocol` compares every rule with its SQL, step by step; `test_lease_simulation` uses only the rules.
"""

from api.domain.tables import JobState

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = (
    JobState.queued,
    JobState.running,
    JobState.succeeded,
    JobState.failed,
    JobState.cancelled,
)
TRANSITIONS = {
    "claim": ({QUEUED}, {RUNNING}),
    "heartbeat": ({RUNNING}, {RUNNING}),
    "finish": ({RUNNING}, {SUCCEEDED}),
    "fail": ({RUNNING}, {FAILED}),
    "lose_attempt": ({RUNNING}, {QUEUED, FAILED, CANCELLED}),
    "requeue": ({RUNNING}, {QUEUED, CANCELLED}),
    "cancel": ({RUNNING}, {CANCELLED}),
    "request_cancel": ({QUEUED, RUNNING}, {CANCELLED, RUNNING}),
    "retry": ({FAILED, CANCELLED}, {QUEUED}),
}
"""The states that each change starts from and leads to. Repeated here, because a model that read the table of
`api.domain.jobs` would repeat its mistakes."""
MAX_BACKOFF_SECONDS = 600.0


class ModelJob:
    """The columns of a job that decide changes, and `bundles`. Each change takes the time and returns whether it won.

    With `fenced=False` writes are accepted without checking the fence, to show what the fence prevents.
    """

    def __init__(self, *, lease_seconds: float, max_attempts: int, fenced: bool = True) -> None:
        self.lease_seconds, self.max_attempts, self.fenced = lease_seconds, max_attempts, fenced
        self.state = JobState.queued
        self.attempt = self.fence = self.bundles = 0
        self.worker: str | None = None
        self.lease_until: float | None = None
        self.run_after = 0.0
        self.cancel_requested = False

    def is_ready(self, now: float) -> bool:
        return self._starts("claim") and self.run_after <= now

    def has_expired(self, now: float) -> bool:
        return self.lease_until is not None and self._starts("lose_attempt") and self.lease_until <= now

    def claim(self, worker: str, now: float) -> bool:
        if not self.is_ready(now):
            return False
        self._enter("claim", JobState.running)
        self.worker, self.lease_until = worker, now + self.lease_seconds
        self.fence, self.attempt = self.fence + 1, self.attempt + 1
        return True

    def heartbeat(self, fence: int, now: float) -> bool:
        if not self._held("heartbeat", fence):
            return False
        self.lease_until = now + self.lease_seconds
        return True

    def may_commit_checkpoint(self, fence: int) -> bool:
        """Return whether the claim may commit a checkpoint. The job does not change."""
        return self._held("heartbeat", fence)

    def finish(self, fence: int) -> bool:
        if not self._held("finish", fence) or self.cancel_requested:
            return False
        self._end("finish", JobState.succeeded)
        self.bundles += 1
        return True

    def fail(self, fence: int) -> bool:
        return self._held("fail", fence) and self._end("fail", JobState.failed)

    def cancel(self, fence: int) -> bool:
        return self._held("cancel", fence) and self._end("cancel", JobState.cancelled)

    def lose_attempt(self, fence: int, now: float) -> bool:
        return self._held("lose_attempt", fence) and self._lose(now)

    def expire(self, now: float) -> bool:
        return self.has_expired(now) and self._lose(now)

    def lose_attempt_of(self, worker: str, now: float) -> bool:
        return self.worker == worker and self._starts("lose_attempt") and self._lose(now)

    def requeue(self, fence: int, now: float) -> bool:
        if not self._held("requeue", fence):
            return False
        self.attempt, self.run_after = self.attempt - 1, now
        return self._end("requeue", JobState.cancelled if self.cancel_requested else JobState.queued)

    def request_cancel(self) -> bool:
        if not self._starts("request_cancel"):
            return False
        self.cancel_requested = True
        if self.state is JobState.queued:
            self._enter("request_cancel", JobState.cancelled)
        return True

    def retry(self, now: float) -> bool:
        if not self._starts("retry"):
            return False
        self._enter("retry", JobState.queued)
        self.attempt, self.run_after, self.cancel_requested = 0, now, False
        return True

    def _starts(self, change: str) -> bool:
        return self.state in TRANSITIONS[change][0]

    def _held(self, change: str, fence: int) -> bool:
        return self._starts(change) and (fence == self.fence or not self.fenced)

    def _enter(self, change: str, state: JobState) -> None:
        assert state in TRANSITIONS[change][1]
        self.state = state

    def _end(self, change: str, state: JobState) -> bool:
        self._enter(change, state)
        self.worker = self.lease_until = None
        return True

    def _lose(self, now: float) -> bool:
        pause = self.lease_seconds / 6 * 2 ** (self.attempt - 1)
        self.run_after = now + min(pause, MAX_BACKOFF_SECONDS)
        if self.cancel_requested:
            return self._end("lose_attempt", JobState.cancelled)
        used_up = self.attempt >= self.max_attempts
        return self._end("lose_attempt", JobState.failed if used_up else JobState.queued)
