#!/bin/bash
# lab: campaign
# The failing devices that other checks use: bad sectors, a disk that fails each write or drops it in silence.
mklv dom0b xblab0/vm1 8M
onb blkdiscard -z /dev/xblab0/vm1

faulty dom0b bad /dev/xblab0/vm1 2048 8
onb dd if=/dev/mapper/xblabdev-bad of=/dev/null bs=1M count=1 iflag=direct status=none
status 1 onb dd if=/dev/mapper/xblabdev-bad of=/dev/null bs=4k skip=256 count=1 iflag=direct
status 1 onb dd if=/dev/zero of=/dev/mapper/xblabdev-bad bs=4k seek=256 count=1 oflag=direct
heal dom0b bad /dev/xblab0/vm1
onb dd if=/dev/zero of=/dev/mapper/xblabdev-bad bs=4k seek=256 count=1 oflag=direct status=none

write="head -c 4096 /dev/urandom | dd of=/dev/mapper/xblabdev-flakey bs=4k count=1 oflag=direct iflag=fullblock"
flakey dom0b flakey /dev/xblab0/vm1 error_writes
status 1 onb "$write"
onb dmsetup remove xblabdev-flakey
flakey dom0b flakey /dev/xblab0/vm1 drop_writes
onb "$write"
equal "$(onb "head -c 4096 /dev/xblab0/vm1 | tr -d '\\0' | wc -c")" 0 "number of dropped bytes that are there"

for module in dm-log-writes dm-dust dm-delay dm-flakey dm-thin-pool dm-era dm-clone dm-integrity nbd brd scsi_debug zram fuse; do
	modprobe -n $module && echo "kernel has $module"
done
