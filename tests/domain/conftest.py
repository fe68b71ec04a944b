from collections.abc import Callable
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from api.domain.database import Sessions, make_sessions
from api.domain.models import Concept, Job, Owner
from api.domain.settings import Settings


@pytest.fixture
def sessions(settings: Settings) -> Sessions:
    return make_sessions(settings)


@pytest.fixture
def make_job(sessions: Sessions) -> Callable[..., UUID]:
    """Insert a job of a new concept; `columns` replace the defaults."""

    def make(**columns: object) -> UUID:
        with sessions.begin() as db:
            owner = Owner(id=uuid7(), name=f"owner {uuid7()}")
            db.add(owner)
            db.flush()
            concept = Concept(id=uuid7(), owner_id=owner.id, name="blue mug", class_noun="mug", base="nano")
            db.add(concept)
            db.flush()
            job = Job(id=uuid7(), owner_id=owner.id, concept_id=concept.id, version=1, preset="default", seed=7)
            for name, value in columns.items():
                setattr(job, name, value)
            db.add(job)
        return job.id

    return make
