#!/bin/bash
# lab: campaign
# Broken disks: a source that can't be read leaves the standby as it was; a target that fails, or drops what is written
# to it in silence, is flagged, and finished by the next run when it works again.
mklv dom0a xblab0/pv 40M
faulty dom0a pv /dev/xblab0/pv 10000 8 # under web1's first disk
trap 'vgremove -q -y -ff xblabpv >/dev/null' EXIT
vgcreate -q xblabpv /dev/mapper/xblabdev-pv
lvcreate -q -y -W n -n vm1 -L 8M xblabpv
mklv dom0a xblab0/vm2 4M
mklv dom0b xblab0/vm1 8M
mklv dom0b xblab0/vm2 4M
fill dom0a /dev/xblab0/vm2
onb blkdiscard -z /dev/xblab0/vm1
onb blkdiscard -z /dev/xblab0/vm2
testdomain dom0a web1 /dev/xblabpv/vm1 /dev/xblab0/vm2
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"' 'MAP=(dom0b:/dev/xblabpv/vm1=/dev/xblab0/vm1 dom0b:/dev/xblab0/vm2=/dev/mapper/xblabdev-vm2)'
flakey dom0b vm2 /dev/xblab0/vm2 error_writes

echo "--- a bad sector in the source"
status 3 backup dom0a
logged dom0a '### ERROR 74: DomU web1, disk xvda: /dev/xblabpv/vm1 was not copied to dom0b:/dev/xblab0/vm1: '
logged dom0a '### DomU web1: failed: xvda; its standby on dom0b is of no one set: xvda [a-z]+, xvdb [a-z]+$'
onb cmp -n $((8 << 20)) /dev/xblab0/vm1 /dev/zero
onb cmp -n $((4 << 20)) /dev/xblab0/vm2 /dev/zero # held, and not written
heal dom0a pv /dev/xblab0/pv

echo "--- a target that fails every write"
status 3 backup dom0a
logged dom0a '### ERROR 74: DomU web1: its disks on dom0b did not become the new ones together: '
onb xb-patch --state /dev/mapper/xblabdev-vm2 | grep '"phase":"applying"'
heal dom0b vm2 /dev/xblab0/vm2
backup dom0a
logged dom0a '### remote Dom0 dom0b: finished the interrupted apply on /dev/'
same /dev/xblabpv/vm1 /dev/xblab0/vm1
same /dev/xblab0/vm2
onb xb-patch --state /dev/xblab0/vm1 | grep '"whole_set":true'

echo "--- a target that drops every write"
fill dom0a /dev/xblab0/vm2
onb dmsetup remove xblabdev-vm2
flakey dom0b vm2 /dev/xblab0/vm2 drop_writes
status 3 backup dom0a
logged dom0a '### ERROR [0-9]+: DomU web1: its disks on dom0b did not become the new ones together: '
onb xb-patch --state /dev/mapper/xblabdev-vm2 | grep '"phase":"applying"'
heal dom0b vm2 /dev/xblab0/vm2
backup dom0a
same /dev/xblab0/vm2
nothing_left
