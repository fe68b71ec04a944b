"""The database tables. PostgreSQL is the single source of truth of the service."""

from api.domain.tables.api_key import ApiKey, DashboardSession
from api.domain.tables.audit_event import AuditEvent
from api.domain.tables.base_check import BaseCheck
from api.domain.tables.bundle import Bundle, Export
from api.domain.tables.concept import Concept, Reference
from api.domain.tables.consent import Consent, ConsentSource
from api.domain.tables.generate_histogram import GenerateHistogram
from api.domain.tables.heartbeat import Heartbeat
from api.domain.tables.idempotency_key import IdempotencyKey
from api.domain.tables.image import Image, PreferenceVote
from api.domain.tables.job import FINAL_STATES, Attempt, Checkpoint, ErasedTraining, Job, JobEvent, JobState
from api.domain.tables.owner import Owner
from api.domain.tables.retention_sweep import RetentionSweep
from api.domain.tables.served_base import ServedBase
from api.domain.tables.study import Study, StudyGroup, StudyImage, StudyVote
from api.domain.tables.table import Table
from api.domain.tables.webhook import Webhook, WebhookDelivery

__all__ = [
    "FINAL_STATES",
    "ApiKey",
    "Attempt",
    "AuditEvent",
    "BaseCheck",
    "Bundle",
    "Checkpoint",
    "Concept",
    "Consent",
    "ConsentSource",
    "DashboardSession",
    "ErasedTraining",
    "Export",
    "GenerateHistogram",
    "Heartbeat",
    "IdempotencyKey",
    "Image",
    "Job",
    "JobEvent",
    "JobState",
    "Owner",
    "PreferenceVote",
    "Reference",
    "RetentionSweep",
    "ServedBase",
    "Study",
    "StudyGroup",
    "StudyImage",
    "StudyVote",
    "Table",
    "Webhook",
    "WebhookDelivery",
]
