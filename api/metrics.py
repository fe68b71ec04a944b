"""Prometheus metrics: times measured by this process, and counts from the database, equal in every process.

Row counts are gauges, because they fall when a concept is erased or old messages are deleted.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.domain.engine_level import LEVELS, engine_level, running_engines
from api.domain.tables import Attempt, Job, JobState, WebhookDelivery
from api.job_times import QUEUED, WORKED

GENERATE_SECONDS = Histogram(
    "opad_generate_seconds",
    "Time of a generate request, by the engine's cache: hit, kv_miss or bundle_miss",
    ["cache"],
    buckets=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10),
)
_JOB_SECONDS = (5, 30, 60, 300, 600, 1800, 3600, 7200, 14400)


def observe_generate(cache: dict[str, str], seconds: float) -> None:
    """Record one request. `cache` is what the engine returned."""
    missed = next((name for name in ("bundle", "kv") if cache.get(name) == "miss"), None)
    GENERATE_SECONDS.labels(f"{missed}_miss" if missed else "hit").observe(seconds)


async def exposition(session: AsyncSession) -> bytes:
    registry = CollectorRegistry()
    registry.register(
        _DatabaseMetrics(
            [
                await _jobs(session),
                await _iteration_rate(session),
                await _durations(session, "opad_job_seconds", "Work on a job: the sum of its attempts", WORKED),
                await _durations(
                    session, "opad_job_queued_seconds", "From a job's creation to its first start", QUEUED
                ),
                await _lost_attempts(session),
                await _messages(session),
                await _engines(session),
            ]
        )
    )
    return generate_latest() + generate_latest(registry)


class _DatabaseMetrics(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


async def _jobs(session: AsyncSession) -> Metric:
    by_state = select(Job.state, func.count()).group_by(Job.state)
    counted = dict((await session.execute(by_state)).all())
    metric = GaugeMetricFamily("opad_jobs", "Jobs by state; queued is the queue's depth", labels=["state"])
    for state in JobState:
        metric.add_metric([state.value], counted.get(state, 0))
    return metric


async def _iteration_rate(session: AsyncSession) -> Metric:
    """Return the iterations per second of all running jobs, from the remaining steps and ETA that each reported."""
    left = select(func.sum((Job.total_steps - Job.step) / Job.eta_seconds)).where(
        Job.state == JobState.running, Job.eta_seconds > 0
    )
    return GaugeMetricFamily(
        "opad_training_iterations_per_second",
        "Training iterations per second of all running jobs together",
        value=await session.scalar(left) or 0,
    )


async def _durations(session: AsyncSession, name: str, meaning: str, seconds: ColumnElement[float]) -> Metric:
    """Return a histogram over the jobs that have started and ended."""
    ended = (
        select(Job.state, seconds.label("seconds"))
        .where(Job.started_at.is_not(None), Job.finished_at.is_not(None))
        .subquery()
    )
    within = [func.count().filter(ended.c.seconds <= bound) for bound in _JOB_SECONDS]
    rows = await session.execute(
        select(ended.c.state, func.count(), func.sum(ended.c.seconds), *within).group_by(ended.c.state)
    )
    metric = HistogramMetricFamily(name, meaning, labels=["state"])
    for state, count, total, *below in rows:
        bounds = [*map(str, map(float, _JOB_SECONDS)), "+Inf"]
        metric.add_metric([state.value], list(zip(bounds, [*below, count], strict=True)), float(total))
    return metric


async def _lost_attempts(session: AsyncSession) -> Metric:
    lost = await session.scalar(select(func.count()).where(Attempt.cause == "lost_worker"))
    return GaugeMetricFamily(
        "opad_attempts_lost", "Attempts whose worker died or stopped sending heartbeats", value=lost or 0
    )


async def _messages(session: AsyncSession) -> Metric:
    query = select(WebhookDelivery.state, func.count()).group_by(WebhookDelivery.state)
    counted = dict((await session.execute(query)).all())
    metric = GaugeMetricFamily(
        "opad_webhook_messages",
        "Webhook messages of the last 30 days by state; failed ones are not sent again",
        labels=["state"],
    )
    for state in ("pending", "delivered", "failed"):
        metric.add_metric([state], counted.get(state, 0))
    return metric


async def _engines(session: AsyncSession) -> Metric:
    rows = await session.execute(running_engines())
    found = [engine_level(facts) for _, facts in rows]
    levels = Counter(level.level if level else "unknown" for level in found)
    metric = GaugeMetricFamily(
        "opad_engines", "Engines that send heartbeats, by the level at which they run", labels=["level"]
    )
    for level in (*LEVELS, "unknown"):
        metric.add_metric([level], levels[level])
    return metric
