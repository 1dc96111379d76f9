"""Hostile definitions on a real libvirtd: each harms its own virtual machine alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from stillframe.adapters.libvirt.domain_xml import METADATA_URI
from stillframe.domain.errors import ErrorCase
from support.hostile_ward import Ward, open_ward
from support.lab import virsh
from support.offline import Lot, domain_xml, file_disk, image
from support.openings import unopened
from support.refusal import must_refuse, must_refuse_post
from support.service import SNAPSHOT, Vm


@pytest.fixture(scope="module")
def ward() -> Iterator[Ward]:
    with open_ward() as ward:
        yield ward


@pytest.fixture(autouse=True)
def put_away(ward: Ward) -> Iterator[None]:
    yield
    ward.put_away()


# --- definitions


def with_metadata(inside: str, doctype: str = "") -> Callable[[str], str]:
    def change(xml: str) -> str:
        return doctype + xml.replace("<memory", f"<metadata><x xmlns='u:x'>{inside}</x></metadata><memory", 1)

    return change


LAUGHS = "<!DOCTYPE domain [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {name} '{f'&{before};' * 10}'>" for before, name in zip("abcdefgh", "bcdefghx", strict=True)
)
DEFINITIONS: dict[str, tuple[Callable[[str], str], bool]] = {
    # what libvirt takes, and whether it can be read again
    "entity-of-a-file": (
        with_metadata("&x;", "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file://SECRET'>]>"),
        False,
    ),
    "entity-of-the-network": (
        with_metadata("&x;", "<!DOCTYPE domain [<!ENTITY x SYSTEM 'http://127.0.0.1:1/x'>]>"),
        False,
    ),
    "entity-in-whose-it-is": (
        lambda xml: with_metadata("", "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file://SECRET'>]>")(xml).replace(
            "<x xmlns='u:x'></x>", f"<vm xmlns='{METADATA_URI}' tenant='default'>&x;</vm>"
        ),
        False,
    ),
    "external-dtd": (with_metadata("", "<!DOCTYPE domain SYSTEM 'file://SECRET'>"), True),
    "huge-text": (with_metadata("a" * 3_000_000), True),
    "text-that-grows": (with_metadata(">" * 3_900_000), False),
    "deep": (with_metadata("<x>" * 240 + "</x>" * 240), True),
    "include": (
        with_metadata("<i:include xmlns:i='http://www.w3.org/2001/XInclude' href='SECRET' parse='text'/>"),
        True,
    ),
    "control-characters": (with_metadata("&#9;&#10;&#13; &#x85; &#x2028; &#x202e;"), True),
}


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_a_hostile_definition_harms_itself_alone(kind: str, ward: Ward) -> None:
    """Every other VM is listed and served; what can be read works, what cannot is said to be unreadable."""
    change, is_readable = DEFINITIONS[kind]
    good = ward.vm(f"{kind}-good", file_disk(image(ward.directory(f"{kind}-good") / "disk-0.qcow2"), "vda"))
    bad = ward.lot(kind)
    xml = change(domain_xml(bad, [file_disk(image(bad.directory / "disk-0.qcow2"), "vda")]))
    with unopened(ward.secret):
        try_to_define(ward, bad, xml.replace("SECRET", str(ward.secret)))
        tenant = "" if kind == "entity-in-whose-it-is" else "default"
        harms_itself_alone(ward, good, bad, is_readable=is_readable, tenant=tenant)


def harms_itself_alone(ward: Ward, good: Vm, bad: Lot, *, is_readable: bool, tenant: str) -> None:
    assert bad.uuid in virsh(ward.daemon, "list", "--all", "--uuid").split()
    ward.defined.append(bad.uuid)
    rows = {row["uuid"]: row for row in ward.service.get("/v1/compute/list")["domains"]}
    assert set(rows) == {good.uuid, bad.uuid}
    good.create("a")
    good.delete("a")
    vm = bad.vm(ward.service)
    if is_readable:
        vm.create("a")
        vm.rollback("a")
        vm.delete("a")
        return
    assert (rows[bad.uuid]["tenant"], rows[bad.uuid]["name"]) == (tenant, bad.name)
    reference = {"cluster_uuid": "", "compute_uuid": bad.uuid}
    told = [
        must_refuse(ward.service, ErrorCase.HYPERVISOR_FAILED, "GET", "/v1/compute/inspect", params=reference),
        must_refuse_post(vm, ErrorCase.HYPERVISOR_FAILED, f"{SNAPSHOT}/create", name="a"),
        must_refuse_post(vm, ErrorCase.HYPERVISOR_FAILED, "/v1/compute/start"),
    ]
    for desc in told:
        assert "cannot be read" in desc
    for whose in ("default", "somebody else"):
        key = ward.service.post("/v1/stillframe/key/create", role="operator", tenant=whose, description="test")
        answer = ward.service.raw("GET", "/v1/compute/inspect", params=reference, headers={"ApiKey": key["api_key"]})
        case = ErrorCase.HYPERVISOR_FAILED if whose == tenant else ErrorCase.VM_UNKNOWN
        assert answer["scode"] == case.code, "where whose it is cannot be read, it is no tenant's"
    findings = ward.service.get("/v1/stillframe/doctor")["findings"]
    assert [f["kind"] for f in findings if f["compute_uuid"] == bad.uuid] == ["not_looked_at"]


def try_to_define(ward: Ward, one: Lot, xml: str) -> bool:
    """False when libvirt says no; it may have defined a domain all the same whose XML it cannot send back."""
    path = one.directory / "domain.xml"
    path.write_text(xml)
    command = ["virsh", "-q", "-c", ward.daemon.uri, "define", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_entities_that_grow_without_end_are_refused_by_libvirt(ward: Ward) -> None:
    """A billion laughs. Should a libvirt take it, the service's own parser refuses it (unit/test_domain_xml.py)."""
    one = ward.lot("laughs")
    assert not try_to_define(ward, one, with_metadata("&x;", LAUGHS + "]>")(domain_xml(one, [])))
    assert ward.service.get("/v1/compute/list")["domains"] == []
