"""Concepts that were trained on another base than the present one, which cannot generate them.

The present base is the one that an engine announced last. A bundle that is older than its column `base_sha256` counts
as one of the present base; the engine, which reads the file, refuses it if it is not.
"""

from sqlalchemy import ColumnElement, Select, all_, case, false, func, select

from api.domain.tables import FINAL_STATES, Bundle, Concept, Job, Reference, ServedBase

BASE_CHANGED = "base_changed"
"""The code with which engine and api refuse such a concept, and its state."""


def present_base() -> Select[ServedBase]:
    return select(ServedBase).order_by(ServedBase.announced_at.desc()).limit(1)


def is_of_another_base() -> ColumnElement[bool]:
    """Return the condition for a `Concept` whose newest bundle was trained on another base than the present one."""
    present = present_base().with_only_columns(ServedBase.manifest_sha256).scalar_subquery()
    newest = select(Bundle.base_sha256).where(Bundle.concept_id == Concept.id).order_by(Bundle.version.desc()).limit(1)
    return func.coalesce(newest.correlate(Concept).scalar_subquery() != present, false())


def obstacle() -> ColumnElement[str | None]:
    """Return the code of what keeps a `Concept` from being trained again on the present base; NULL if nothing does."""
    base = present_base().subquery()
    lacks_noun = select(Concept.class_noun != all_(base.c.nouns)).correlate(Concept)  # NULL if it knows every noun
    return case(
        (_exists(Job, Job.state.not_in(FINAL_STATES)), "concept_in_training"),
        (~_exists(Reference), "references_gone"),
        (lacks_noun.scalar_subquery(), "unknown_class_noun"),
    )


def _exists(table: type[Job] | type[Reference], *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return select(table.id).where(table.concept_id == Concept.id, *conditions).correlate(Concept).exists()
