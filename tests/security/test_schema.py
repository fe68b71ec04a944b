"""The service conforms to its OpenAPI description for any input: no 5xx, and only documented answers.

A few fixed requests to each operation in every run; `make fuzz` sends OPAD_FUZZ_EXAMPLES new ones to each.
"""

import os
from collections.abc import Callable

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi import checks

from api.domain.settings import Settings
from tests.api.test_auth import bearer

EXAMPLES = int(os.environ.get("OPAD_FUZZ_EXAMPLES", "0"))
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
NOT_READY = {"/readyz"}
"""Answers 503 here, because no engine runs."""


@pytest.fixture
def api_settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_upload_mb": 1, "requests_per_minute": 0, "max_concepts": 0})


@pytest.mark.timeout(0 if EXAMPLES else 300)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as described", "otherwise"])
def test_answers_are_as_described(served: str, new_key: Callable[..., str], base: None, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{served}/openapi.json")
    headers = bearer(new_key("admin"))
    asked, failures = 0, []
    for found in schema.get_all_operations():
        operation = found.ok()
        takes_something = operation.body or operation.query or operation.path_parameters
        if operation.path in NOT_READY or (mode is GenerationMode.NEGATIVE and not takes_something):
            continue

        @hypothesis_settings(
            max_examples=EXAMPLES or 4,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Case) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(headers=headers, checks=CHECKS)

        try:
            ask()
        except (FailureGroup, Failure) as failure:  # checks all operations, then reports all failures
            failures.append(f"{operation.label}\n{failure}")
    assert not failures, "\n\n".join(failures)
    assert asked > 50
