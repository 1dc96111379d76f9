"""How the figures were made, in words."""

from __future__ import annotations

from scale import Scale

_EXPLANATION = """\
## How it was measured

All peers work on the same private libvirtd, started for this run alone, behind the same process that waits for dead
QEMU processes at once (where nobody does, libvirt waits seconds for a zombie). Stillframe is its HTTP service connected
to that libvirtd; `virsh` is given the same address. One guest runs at a time. In every round every peer gets a freshly
booted guest of every size, and the peer that comes first changes from round to round. A figure is the median of all
rounds, with the smallest and the largest in brackets (what concerns disks alone is measured after the rounds); a goal compares medians of this run. A goal that is missed is said.

The guest is the witness: a real Linux whose only program writes a line with a number to its serial console every 5 ms,
after writing that number durably to its disk. Of its memory {guests} hold random data, and {dirty_pages} random pages of
it are changed with every line, which is {dirty_mib:.0f} MiB a second. Its disk is a qcow2 file with `cache=none`.

- **Stall**: how long the guest stood still for somebody who watches it. A thread of the benchmark looks at the console
  file every half millisecond and notes when each line arrives; the figure is the longest time between two lines from
  the request until one second after the operation, the saving of memory behind the guest's back included, has
  completely ended. *Until the answer* is the same until the call returned. *Jitter* is the same over 1 s in which
  nothing is done, three times of every guest before anything was done to it.
- **Snapshot with memory**: Stillframe `domain_memory: true`; `virsh snapshot-create-as --memspec
  file=…,snapshot=external --diskspec vda,snapshot=external --live --atomic`; `virsh snapshot-create-as` (internal).
  Of one guest Stillframe takes {snapshots} one after the other, `virsh` {peers} external ones or an internal one; the one
  before is deleted first.
  **Disk snapshot**: Stillframe without `domain_memory`; `virsh snapshot-create-as --disk-only --atomic` (external);
  {disk_snapshots} of one guest. libvirt takes no internal one of a running guest.
- **Call returns / can be rolled back to**: Stillframe answers as soon as disks and memory are of one moment and the
  guest runs; the memory is saved behind it and is usable when its checksum is recorded and it is on disk. The figures of
  `virsh` contain its own start, which is listed; Stillframe's contain HTTP.
- **Rollback with memory**: from sending the request to the arrival of the first line with which the guest counts on
  from the snapshot, after it had run on for more than two seconds; of one guest {rollbacks} times in turn, of an internal
  snapshot once. Stillframe checks the whole memory state against its checksum, behind the back of the guest that lives on it;
  libvirt checks nothing.
- **Floor**: a bare QEMU with nobody's management around it, from starting the program to the first line of its guest. Its
  command line is that of the guest's own QEMU, its disk an empty overlay, made beforehand, on the snapshot's layer. It
  maps the memory from Stillframe's file of the same snapshot as the guest's QEMU does, and reads the rest of the state from a copy made
  beforehand (`-incoming defer`, `mapped-ram`, `migrate-incoming file:…,offset=1048576`). Nothing has to be powered off for it,
  and nobody asks it anything: libvirt puts some 460 questions to each QEMU that it starts, about each feature of its
  processor.
- **Rollback without memory**: so much real data is written to the shut-off machine's disk (`qemu-io`, past the page cache
  as a guest itself would) and flushed, then the whole call is timed, the removal of what was written included.
- **Memory state on disk**: the guest is paused, QEMU writes out all of its memory as the processor sees it (`pmemsave`), the
  guest goes on, and Stillframe's snapshot is taken at once; then the pages of 4 KiB that are not all zero are counted. What
  the guest changes in between are pages that it had filled before. On disk means the blocks that the file occupies; what it
  holds besides, such as the video memory, is not taken off.
- **Live delete**: a machine's disk has a layer with {layer_mib} MiB of real data between the one below and the running
  guest's own; the snapshot below is deleted, so that all of the layer is copied down while the guest writes as ever. The
  rate is the layer's data by the time of the whole call. `virsh blockcommit --wait` does the same in a guest like it, with an
  equal layer; `qemu-img commit -d` with one that nobody has open, on a machine with nothing else to do. Both results are
  synced. A **write's** and a **flush's** time is what QEMU counts at the guest's own disk device
  (`block-latency-histogram-set`, in steps of a twentieth), over {quiet_s:.0f} s before and over the call; a **tick** is the
  time between two lines of the witness, each of which waits for a durable write, and at least 5 ms.
- **Tree of 1,000 snapshots**: a whole request over HTTP, the virtual machine asked of libvirt and the rows read, 30 times
  each in turn. **Reads** are explained in their own section.
"""


def explanation(scale: Scale) -> str:
    parts = [f"{guest.fill_mib} of {guest.memory_mib} MiB" for guest in scale.guests]
    guests = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    dirty_pages = scale.base_guest.dirty_pages
    return _EXPLANATION.format(
        guests=guests,
        dirty_pages=dirty_pages,
        dirty_mib=dirty_pages * 4096 / 0.005 / (1 << 20),
        snapshots=scale.snapshots,
        peers=scale.peer_snapshots,
        disk_snapshots=scale.disk_snapshots,
        rollbacks=scale.rollbacks,
        layer_mib=scale.layer_mib,
        quiet_s=scale.quiet_s,
    )
