"""Preference votes between two versions of a concept."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.routes.preferences import wilson


def test_votes_are_counted_for_the_pair_whichever_side_was_named_first(
    client: TestClient, concept: dict[str, Any]
) -> None:
    address = f"/v1/concepts/{concept['id']}/preferences"
    vote = {"prompt": "a <concept>", "seed": 1}
    for preferred, other, tie in (
        (2, 1, False),
        (1, 2, False),
        (2, 1, False),
        (2, 1, False),
        (1, 2, True),
        (1, 0, False),
    ):
        body = {**vote, "preferred": preferred, "other": other, "tie": tie}
        assert client.post(address, json=body).status_code == 201

    untouched, versions = client.get(address).json()["pairs"]

    assert (untouched["first_version"], untouched["second"], untouched["first_share"]) == (0, 1, 0.0)
    assert (versions["first"], versions["second"], versions["neither"], versions["first_share"]) == (1, 3, 1, 0.25)
    assert versions["interval"] == pytest.approx((0.0456, 0.6994), abs=1e-4)


def test_wilsons_interval_stays_within_zero_and_one() -> None:
    # 0 of 10: upper end z2 / (10 + z2) = 3.8415 / 13.8415; 10 of 10 mirrors it
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)


def test_a_vote_for_nothing_of_ones_own_is_refused(
    client: TestClient, concept: dict[str, Any], new_key: Callable[..., str]
) -> None:
    address = f"/v1/concepts/{concept['id']}/preferences"
    body = {"preferred": 1, "other": 1, "prompt": "a <concept>", "seed": 1}
    assert "both sides are version 1" in client.post(address, json=body).json()["detail"]

    client.headers["Authorization"] = f"Bearer {new_key('bob')}"
    assert client.post(address, json={**body, "other": 2}).json()["code"] == "no_such_concept"
    assert client.get(address).status_code == 404
