"""The catalogue at the API's door: an admin's alone, and audited."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fumehood.domain.tenant import Scope
from tests.api.test_api import Served, problem
from tests.api.test_tenancy import as_holder, key_of
from tests.fakes.laboratory import write_template
from tests.unit.test_requesting import FILES, asking

PATH = "/v1/admin/catalogue"
GIVEN: dict[str, Any] = {
    "name": "austen",
    "kind": "data",
    "title": "Six novels",
    "url": "https://texts.example/austen.txt",
    "licence": "public domain",
    "sha256": "ab" * 32,
    "bytes": 40,
    "format": "text",
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.lab.artifacts.close()


def test_an_admin_adds_lists_and_removes(served: Served) -> None:
    client = served.client
    once = {"Idempotency-Key": "first"}
    made = client.post(PATH, json=GIVEN, headers=once)
    assert made.status_code == 201, made.text
    told = made.json()
    assert {name: told[name] for name in GIVEN} == GIVEN
    assert (told["split"], told["templates"], told["tenants"]) == (0.05, [], [])
    again = client.post(PATH, json=GIVEN, headers=once)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == told
    assert client.get(PATH).json() == {"items": [told], "next": None}
    problem(client.post(PATH, json={**GIVEN, "sha256": "cd" * 32}), 409, "conflict")
    gone = client.delete(f"{PATH}/austen")
    assert gone.json()["name"] == "austen"
    assert client.get(PATH).json()["items"] == []
    problem(client.delete(f"{PATH}/austen"), 404, "not-found")
    audit = [one for one in client.get("/v1/admin/audit").json()["items"] if one["action"].startswith("catalogue.")]
    assert [(one["action"], one["subject"]) for one in audit] == [
        ("catalogue.added", "austen"),
        ("catalogue.removed", "austen"),
    ]
    assert all(one["actor"].startswith("key_") for one in audit)


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": ""},
        {"sha256": None},
        {"name": "../x"},
        {"url": "file:///etc/passwd"},
        {"format": "pickle"},
        {"kind": "model"},
        {"tenants": ["nobody"]},
        {"path": "/etc"},
    ],
)
def test_what_makes_no_entry_is_refused(served: Served, changes: dict[str, Any]) -> None:
    assert served.client.post(PATH, json={**GIVEN, **changes}).status_code in {404, 422}
    assert served.client.get(PATH).json()["items"] == []


def test_a_tenant_neither_sees_nor_changes_it(served: Served) -> None:
    served.client.post(PATH, json=GIVEN)
    tenant = as_holder(served, key_of(served.lab, "physics", Scope.READ, Scope.WRITE))
    for answer in (tenant.get(PATH), tenant.post(PATH, json=GIVEN), tenant.delete(f"{PATH}/austen")):
        assert answer.status_code == 403
    assert len(served.client.get(PATH).json()["items"]) == 1


def test_what_waits_says_why_and_goes_on_when_it_is_there(served: Served) -> None:
    lab, client = served.lab, served.client
    write_template(lab.folder / "shipped" / "tiny", FILES)
    lab.model.script.update(asking(["austen"]))
    direction = lab.submit(runs=1)
    lab.go_on()
    place = f"/v1/directions/{direction.id}"
    assert client.get(place).json()["hold"] == "policy"
    (idea,) = client.get(f"{place}/ideas").json()["items"]
    assert idea["requests"] == ["austen"]
    assert "austen, which is not in the catalogue" in idea["waits_for"]
    # No move of the tenant's own lifts it.
    client.post(f"{place}/resume")
    client.post(f"/v1/ideas/{idea['id']}/approve")
    lab.go_on()
    assert client.get(place).json()["hold"] == "policy"
    approve = f"/v1/admin/approvals/{idea['id']}/approve"
    problem(client.post(approve), 409, "conflict")
    assert client.post(PATH, json=GIVEN).status_code == 201
    assert client.post(approve).status_code == 200
    assert client.get(place).json()["hold"] == "none"
    assert client.get(f"{place}/ideas").json()["items"][0]["waits_for"] == ""
