#!/bin/bash
# lab: campaign
# lab: udev
# The wrapper where udev looks into every device that is closed, and LVM's monitor is running: neither counts as a user of
# a standby, keeps a snapshot, or holds the wrapper's lock.
mklv dom0a xblab0/vm1 8M
thinpool dom0a xblab0/pool 32M
mkthin dom0a xblab0/pool vm2 8M
made dom0b xblab0/vm1
made dom0b xblab0/vm2
mkfs.ext4 -q /dev/xblab0/vm1
mkfs.ext4 -q /dev/xblab0/vm2
testdomain dom0a web1 /dev/mapper/xblab0-vm1 /dev/xblab0/vm2
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"' CREATE_LV=xblab0
for _ in 1 2; do
	backup dom0a --verify
	equal "$(cat mail)" "" "cron's mail"
	same /dev/xblab0/vm1
	same /dev/xblab0/vm2
	onb 'xb-patch --state /dev/xblab0/vm1 | grep "\"whole_set\":true"'
	nothing_left
	mount /dev/xblab0/vm2 /mnt
	head -c 100000 /dev/urandom >/mnt/file
	umount /mnt
done
