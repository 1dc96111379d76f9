"""Merges in a running QEMU, each as one call into libvirt that ends with the VM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libvirt

from stillframe.adapters.libvirt.connection import Connection
from stillframe.adapters.libvirt.death import has_died
from stillframe.adapters.libvirt.merge import commit_live
from stillframe.adapters.libvirt.pacer import Speed
from stillframe.adapters.libvirt.pull import leave_live, pull_live
from stillframe.adapters.libvirt.qmp import QmpError
from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.ports.hypervisor import MergeProgress, OnMerge, OnSwitch, PullRequest


class Merger:
    """The merging part of ``PointInTimeFixer`` (ports/hypervisor.py)."""

    def __init__(self, connection: Connection, *, timeout_s: float, speed: Speed) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._speed = speed

    def commit(
        self, vm_uuid: str, target: str, top_path: str, base_path: str, on_progress: OnMerge, *, on_switch: OnSwitch
    ) -> None:
        def act(domain: Any) -> None:
            tell = self._while_wanted(on_progress)
            commit_live(domain, target, top_path, base_path, tell, on_switch=on_switch, speed=self._speed)

        self._call(f"merge {top_path} into {base_path}", vm_uuid, act)

    def pull(self, vm_uuid: str, request: PullRequest, on_progress: OnMerge) -> None:
        def act(domain: Any) -> None:
            pull_live(domain, request, self._while_wanted(on_progress), speed=self._speed)

        self._call(f"pull {request.base_path} into {request.top_path}", vm_uuid, act)

    def leave(self, vm_uuid: str, request: PullRequest) -> None:
        what = f"take {request.base_path} from below {request.top_path}"
        self._call(what, vm_uuid, lambda domain: leave_live(domain, request))

    def _while_wanted(self, on_progress: OnMerge) -> OnMerge:
        def tell(progress: MergeProgress) -> None:
            self._connection.check_wanted()
            on_progress(progress)

        return tell

    def _call(self, what: str, vm_uuid: str, act: Callable[[Any], None]) -> None:
        def unless_it_goes_off(domain: Any) -> None:
            try:
                act(domain)
            except (libvirt.libvirtError, QmpError, StillframeError) as error:
                if not has_died(domain):
                    raise
                words = f"VM {vm_uuid} was powered off in the middle of this: {what}"
                raise Failed(ErrorCase.VM_NOT_RUNNING, words) from error

        self._connection.domain_call(what, vm_uuid, unless_it_goes_off, timeout_s=self._timeout_s)
