"""The service keeps to the description that it serves, whatever is sent: no 5xx, no answer that is not described.

A few fixed requests to each operation in every run; `make fuzz` sends OPAD_FUZZ_EXAMPLES new ones to each.
"""

import os
from collections.abc import Callable

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
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
"""Says 503 here, as it should: no engine runs."""


@pytest.fixture
def api_settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_upload_mb": 1, "requests_per_minute": 0, "max_concepts": 0})


@pytest.mark.timeout(0 if EXAMPLES else 300)
def test_answers_are_as_described(
    served: str, new_key: Callable[..., str], base: None, subtests: pytest.Subtests
) -> None:
    schema = schemathesis.openapi.from_url(f"{served}/openapi.json")
    headers = bearer(new_key("admin"))
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in NOT_READY:
            continue

        @hypothesis_settings(
            max_examples=EXAMPLES or 5,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Case) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(headers=headers, checks=CHECKS)

        with subtests.test(operation.label):
            ask()
    assert asked > 100
