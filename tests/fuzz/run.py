"""Every call of the OpenAPI document, by schemathesis, against a running service; exit code 1 when anything is found.

    python tests/fuzz/run.py [--requests 20000]

All of schemathesis's checks, its stateful phase too, in rounds of fresh seeds until so many requests were made: a tenant's
operator asks, then an administrator, about two virtual machines that are there and shut off. HTTP errors are semantic for it:
a status 200 for everything would leave half of the checks nothing to look at. Whatever it finds, every answer is checked by
``AnswerSchemas`` as well (the envelope, no undocumented field), which schemathesis's hook calls.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.offline import domain_xml, file_disk, image, lot, offline
from support.service import Service

_CASES = re.compile(r"^\s+(\d+) generated", re.MULTILINE)
_HOOKS = Path(__file__).with_name("hooks.py")
# calls that an administrator must not make at random: guests of up to 64 GiB, whose machines are whose, and keys whose role
# and tenant do not fit together, which no schema says well
_NOT_AT_RANDOM = ("createGuest", "assignVm", "createKey")


def furnish(service: Service) -> tuple[list[str], str]:
    """Two machines of one tenant with a few snapshots; returns their uuids and the tenant's key."""
    lots = [lot(service, f"fuzzed-{name}") for name in "ab"]
    disks = [file_disk(image(one.directory / "disk.qcow2", size="1M"), "vda") for one in lots]
    offline(service, *[("define", domain_xml(one, [disk])) for one, disk in zip(lots, disks, strict=True)])
    service.start()
    vms = [one.vm(service) for one in lots]
    for vm in vms:
        vm.post("/v1/stillframe/vm/assign", tenant="fuzzed")
        vm.create("base")
        vm.create("next")
    key = service.post("/v1/stillframe/key/create", role="operator", tenant="fuzzed")["api_key"]
    return [vm.uuid for vm in vms], key


def configure(directory: Path, key: str, vm_uuid: str) -> Path:
    """The configuration's path; the key stands in a file, as no command line holds one. ``vm_uuid`` "": at random."""
    path = directory / "schemathesis.toml"
    lines = [f'hooks = "{_HOOKS}"', "[auth.openapi.ApiKey]", f'api_key = "{key}"']
    if vm_uuid:
        lines += ["[parameters]", f"compute_uuid = {json.dumps(vm_uuid)}"]
    else:
        lines += ["[parameters]"]
    lines += ["wait_s = 0"]  # an answer that goes on for minutes would be waited for
    path.write_text("\n".join([lines[0], "", *lines[1:]]) + "\n")
    path.chmod(0o600)
    return path


def fuzz(
    service: Service, config: Path, vm_uuid: str, seed: int, *, examples: int, without: tuple[str, ...]
) -> tuple[int, bool, str]:
    """One round: how many requests, whether nothing was found, and what schemathesis said."""
    command = [str(Path(sys.prefix) / "bin" / "schemathesis"), "--config-file", str(config), "run"]
    command += [f"{service.url}/openapi.json", "--checks", "all", "--max-examples", str(examples), "--seed", str(seed)]
    command += ["--no-color", "--continue-on-failure", "--workers", "1", "--request-timeout", "60"]
    for operation_id in without:
        command += ["--exclude-operation-id", operation_id]
    environment = {**os.environ, "FUZZED_VM": vm_uuid}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return sum(map(int, _CASES.findall(done.stdout))), done.returncode == 0, done.stdout + done.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz every call of the document.")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--examples", type=int, default=100)
    told = parser.parse_args()
    begun, total, bad = time.monotonic(), 0, 0
    service = Service(http_errors="semantic", requests_per_s="0")
    try:
        vm_uuids, operator = furnish(service)
        administrator = (service.state / "admin.key").read_text().strip()
        # a tenant's key is told 403 by an administrator's call: that is checked by the isolation matrix, not here
        rounds = [(operator, vm_uuids[0], ()), (administrator, vm_uuids[1], _NOT_AT_RANDOM), (operator, "", ())]
        number = 0
        while total < told.requests and not bad:
            key, vm_uuid, without = rounds[number % len(rounds)]
            number += 1
            seed = secrets.randbelow(1 << 32)
            config = configure(service.state, key, vm_uuid)
            cases, is_good, said = fuzz(service, config, vm_uuid, seed, examples=told.examples, without=without)
            total += cases
            print(
                f"round {number}, seed {seed}: {cases} requests, {'nothing found' if is_good else 'FOUND'}", flush=True
            )
            if not is_good or not cases:
                bad += 1
                print(said)
        crashes = [line for line in service.log_path.read_text("utf-8").splitlines() if ": crashed" in line]
    finally:
        service.destroy()
    print(
        f"{total} requests in {time.monotonic() - begun:.0f} s, {number} rounds, {bad} with findings, {len(crashes)} crashes"
    )
    for line in crashes[:10]:
        print(line)
    return 1 if bad or crashes else 0


if __name__ == "__main__":
    sys.exit(main())
