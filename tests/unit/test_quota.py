"""Whether a snapshot fits into its tenant's budget: pure, and at the door."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from stillframe.adapters.metadata.database import open_metadata
from stillframe.domain.access import Role
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.domain.quota import (
    ALLOWANCE_LEAST_BYTES,
    Demand,
    TenantLimits,
    Used,
    allowance,
    check_count,
    check_fits,
)
from stillframe.operations.quotas import use_of
from stillframe.operations.world import World
from stillframe.ports.keys import KeyRow
from support.http_door import CALLER, TENANT, DoorClient, must_fail

GIB = 1 << 30
DEMAND = Demand("vm", "t", space_bytes=10, memory_bytes=20, capacity_bytes=GIB)
NOTHING = TenantLimits("t")


def refusal(demand: Demand, limits: TenantLimits, of_tenant: Used, of_vm: Used) -> str:
    with pytest.raises(Refused) as refused:
        check_fits(demand, limits, of_tenant, of_vm)
    assert refused.value.case is ErrorCase.QUOTA_EXHAUSTED
    return refused.value.desc


def test_a_budget_is_the_tenants_to_the_last_byte() -> None:
    limits = TenantLimits("t", space_bytes=100)
    check_fits(DEMAND, limits, Used(space_bytes=90), Used(space_bytes=50 * GIB))
    assert "91 of the 100 bytes" in refusal(DEMAND, limits, Used(space_bytes=91), Used())


def test_without_one_each_machine_has_three_times_its_volumes() -> None:
    check_fits(DEMAND, NOTHING, Used(space_bytes=100 * GIB), Used(space_bytes=3 * GIB - 10))
    assert "VM vm (3 times" in refusal(DEMAND, NOTHING, Used(), Used(space_bytes=3 * GIB - 9))
    assert allowance(1) == ALLOWANCE_LEAST_BYTES


def test_memory_is_only_bounded_where_something_is_set_and_memory_wanted() -> None:
    check_fits(DEMAND, NOTHING, Used(memory_bytes=100 * GIB), Used())
    limits = TenantLimits("t", memory_bytes=20)
    check_fits(DEMAND, limits, Used(), Used())
    assert "memory" in refusal(DEMAND, limits, Used(memory_bytes=1), Used())
    check_fits(Demand("vm", "t", 10, 0, GIB), limits, Used(memory_bytes=1), Used())


def test_a_budget_of_nothing_lets_nothing_in() -> None:
    refusal(DEMAND, TenantLimits("t", space_bytes=0), Used(), Used())


def test_the_number_of_snapshots() -> None:
    check_count("VM", 9, 10)
    with pytest.raises(Refused, match="the limit is 10"):
        check_count("VM", 10, 10)


def test_setting_and_seeing_at_the_door() -> None:
    door = DoorClient()
    door.post("/v1/stillframe/tenant/set", {"tenant": TENANT.upper(), "space_bytes": 5, "memory_open": False})
    limits = TenantLimits(TENANT, memory_open=False, space_bytes=5)
    assert door.stub.asked == [("set_tenant", limits, CALLER)]
    (use,) = door.get("/v1/stillframe/tenant/usage")["data"]["list"]
    assert (use["tenant"], use["snapshots"], use["space_budget_set"], use["max_snapshots"]) == (TENANT, 3, True, 7)


@pytest.mark.parametrize("number", [b"5", b"5.0", b"0.5e1"])
def test_a_number_without_a_fraction_is_an_integer_however_it_is_written(number: bytes) -> None:
    door = DoorClient()
    door.request(
        "POST",
        "/v1/stillframe/tenant/set",
        content=b'{"tenant": "t", "space_bytes": %s}' % number,
        headers={"Content-Type": "application/json"},
    )
    assert door.stub.asked == [("set_tenant", TenantLimits("t", space_bytes=5), CALLER)]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tenant": ""},
        {"tenant": "t", "space_bytes": -1},
        {"tenant": "t", "space_bytes": 1.5},
        {"tenant": "t", "space_bytes": 1e300},
        {"tenant": "t", "memory_bytes": "1G"},
        {"tenant": "t", "max_snapshots": 1 << 60},
    ],
)
def test_odd_limits_are_not_set(body: dict[str, object]) -> None:
    door = DoorClient()
    assert door.post("/v1/stillframe/tenant/set", body)["scode"] in (21001, 21002)
    assert door.stub.asked == []


def test_a_new_budget_is_no_tenants_own_business() -> None:
    door = DoorClient()
    must_fail(
        door.post("/v1/stillframe/tenant/set", {"tenant": "t", "space_bytes": True}), ErrorCase.PARAMETER_MALFORMED
    )


def test_the_use_of_a_tenant_that_there_is_not_is_refused_and_no_zeros(tmp_path: Path) -> None:
    """There is one that has limits, a key, or a virtual machine without snapshots."""
    with closing(open_metadata(f"sqlite:///{tmp_path / 'tenants.db'}")) as metadata:
        machines = [SimpleNamespace(tenant="of a machine", unreadable=False)]
        world = cast(
            "World",
            SimpleNamespace(
                metadata=metadata,
                inventory=SimpleNamespace(list_vms=lambda: machines),
                limits=SimpleNamespace(memory_space_open=lambda _tenant: False, max_snapshots=5),
            ),
        )
        with metadata.write() as tx:
            tx.quotas.set_limits(TenantLimits("of limits"))
            tx.keys.insert(KeyRow("0" * 12, Role.READER, "of a key", "", "aa", "bb", 1, ""))
        for tenant in ("of limits", "of a key", "of a machine"):
            assert [use.limits.tenant for use in use_of(world, tenant, "", 10).uses] == [tenant]
        with pytest.raises(Refused) as refused:
            use_of(world, "nosuch", "", 10)
        assert (refused.value.case, refused.value.desc) == (ErrorCase.TENANT_UNKNOWN, 'tenant "nosuch"')
