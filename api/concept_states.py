"""The state of a concept, and what keeps a trained one from generating images."""

from sqlalchemy import ColumnElement, Text, and_, case, select, type_coerce

from api.concept_refusals import base_changed
from api.concept_schemas import ConceptProblem, ConceptState
from api.domain.replaced_bases import BASE_CHANGED, is_of_another_base
from api.domain.tables import Bundle, Concept, Job, JobState

_IN_TRAINING = (JobState.queued.value, JobState.running.value)


def concept_state() -> ColumnElement[ConceptState]:
    """Return the state of a `Concept`, as `ConceptOut.state` describes it."""
    state = select(type_coerce(Job.state, Text)).where(Job.concept_id == Concept.id).order_by(Job.version.desc())
    newest = state.limit(1).correlate(Concept).scalar_subquery()
    is_trained = select(Bundle.id).where(Bundle.concept_id == Concept.id).correlate(Concept).exists()
    return case(
        (and_(is_trained, ~is_of_another_base()), "ready"),
        (and_(is_trained, newest.not_in(_IN_TRAINING)), BASE_CHANGED),
        else_=newest,
    )


def concept_problem(concept: Concept, obstacle: str | None) -> ConceptProblem:
    """Describe a concept of another base; `obstacle` is what keeps it from being trained again."""
    error = base_changed(concept, obstacle)
    return ConceptProblem(code=error.code, detail=error.message, can_learn_again=obstacle is None)
