"""Doctor without a guest: the catalogue, a hypervisor that cannot be asked, a database that cannot be trusted."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from stillframe.adapters.libvirt.connection import Connection
from stillframe.adapters.libvirt.inventory import LibvirtInventory
from stillframe.adapters.memory.local import LocalMemoryStore
from stillframe.adapters.metadata.database import SqlMetadata, open_metadata
from stillframe.adapters.volumes.qcow2 import Qcow2Volumes
from stillframe.domain.findings import Finding, FindingKind
from stillframe.domain.layers import Layer, Volume
from stillframe.domain.snapshot import DiskSnapshot, Snapshot
from stillframe.operations.checksum import text_checksum
from stillframe.operations.doctor import Doctor
from stillframe.operations.moments import unwatched
from stillframe.operations.recovery import Recovery
from stillframe.operations.repair import Repairs
from stillframe.operations.requests import Cluster
from stillframe.operations.runner import Runner
from stillframe.operations.world import World
from stillframe.ports.instruments import Unheard

ROOT = Path(__file__).parents[2]
VM = str(uuid.uuid4())


@pytest.mark.parametrize("kind", FindingKind)
def test_every_kind_is_worded_and_documented(kind: FindingKind) -> None:
    words = kind.words
    assert words.message
    assert words.advice
    for chinese in (words.message_cn, words.advice_cn):
        assert any("\u4e00" <= char <= "\u9fff" for char in chinese)
    assert bool(words.repair) == bool(words.repair_cn)
    assert f"`{kind.value}`" in (ROOT / "docs" / "operating.md").read_text()
    finding = Finding(kind)
    assert (finding.remedy, finding.remedy_cn) == (words.advice, words.advice_cn)
    repairable = replace(finding, repairable=True)
    assert (repairable.remedy, repairable.remedy_cn) == (words.repair, words.repair_cn)


class Ward:
    """A world with real adapters on one VM with one snapshot; libvirt is where nothing listens."""

    def __init__(self, directory: Path, metadata: SqlMetadata, connection: Connection) -> None:
        self.cluster = Cluster(metadata.cluster_uuid(), "test")
        self.layers = directory / f"stillframe-{self.cluster.uuid}"
        self.metadata = metadata
        self.volumes = Qcow2Volumes(lock_wait_s=0.2)
        self.base = str(directory / "disk.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.base, "8M"], check=True)
        self.head = self.overlay()
        world = SimpleNamespace(
            metadata=metadata,
            volumes=self.volumes,
            memory_store=LocalMemoryStore(directory / "state"),
            inventory=LibvirtInventory(connection),
            watch=unwatched,
            instruments=Unheard(),
            now_s=time.time,
            new_uuid=lambda: str(uuid.uuid4()),
        )
        runner = Runner(cast("World", world))
        self.doctor = Doctor(runner.world, self.cluster)
        self.repairs = Repairs(runner, Recovery(runner), self.doctor, self.cluster)
        self._insert()

    def overlay(self) -> str:
        path = str(self.layers / f"{uuid.uuid4()}.qcow2")
        self.volumes.ensure_overlay(path, self.base, "qcow2")
        return path

    def _insert(self) -> None:
        frozen = Layer("frozen", "volume", None, self.base, "qcow2", foreign=True)
        head = Layer(Path(self.head).stem, "volume", "frozen", self.head, "qcow2", foreign=False)
        snapshot = Snapshot(
            "s", VM, 0, "a", "", None, 1, "", "", "", "", "<domain/>", text_checksum("<domain/>"),
            (DiskSnapshot("d", "volume", "frozen", "vda"),),
        )  # fmt: skip
        with self.metadata.write() as tx:
            tx.layers.insert_volume(Volume("volume", VM, "vda", head.uuid, str(self.layers)))
            for layer in (frozen, head):
                tx.layers.insert_layer(layer)
            tx.snapshots.insert(snapshot)


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    nowhere = Connection(f"qemu+unix:///system?socket={tmp_path / 'nothing'}", call_timeout_s=20)
    with closing(open_metadata(f"sqlite:///{tmp_path / 'stillframe.db'}")) as metadata, closing(nowhere):
        yield Ward(tmp_path, metadata, nowhere)


def test_without_the_hypervisor_nothing_is_said_about_it_and_no_layer_is_deleted(ward: Ward) -> None:
    """Files can still be compared with rows; that nobody uses one cannot be proved."""
    orphan, gone = ward.overlay(), Path(ward.head)
    gone.unlink()
    seen = ward.doctor.look(deep=True).findings
    assert [finding.kind for finding in seen] == [
        FindingKind.MISSING_LAYER,
        FindingKind.ORPHAN_LAYER,
        FindingKind.NOT_LOOKED_AT,
    ]
    assert (seen[0].path, seen[1].path) == (str(gone), orphan)
    assert "cannot be asked" in seen[1].desc
    assert "libvirt" in seen[2].desc
    assert not any(finding.repairable for finding in seen)
    report = ward.repairs.repair(deep=False, began=lambda _uuid: None)
    assert (report.repairs, report.findings) == ((), seen)
    assert Path(orphan).exists()


def test_with_a_damaged_database_nothing_else_is_judged_and_nothing_deleted(ward: Ward) -> None:
    """A row that is lost makes its file look like nobody's."""
    with ward.metadata._engines.writer.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA foreign_keys = OFF")
        with connection.begin():
            connection.exec_driver_sql("DELETE FROM layers WHERE path = ?", (ward.head,))
        driver.execute("PRAGMA foreign_keys = ON")
    for report in (ward.doctor.look(deep=False), ward.repairs.repair(deep=False, began=lambda _uuid: None)):
        assert {finding.kind for finding in report.findings} == {
            FindingKind.DATABASE_DAMAGED,
            FindingKind.NOT_LOOKED_AT,
        }
        assert report.repairs == ()
    assert Path(ward.head).exists()
