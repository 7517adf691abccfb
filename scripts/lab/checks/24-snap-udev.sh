#!/bin/bash
# lab: campaign
# lab: udev
# xb-snap where udev makes the device nodes, and looks into every volume that is closed after writing.
mklv dom0a xblab0/vm1 16M
thinpool dom0a xblab0/pool 32M
mkthin dom0a xblab0/pool vm2 16M
mkfs.ext4 -q /dev/xblab0/vm1
for _ in 1 2 3; do
	xb-snap create --owner $$ /dev/xblab0/vm1 /dev/xblab0/vm2 >snaps
	mapfile -t snap <snaps
	[ -b "${snap[0]}" ] && [ -b "${snap[1]}" ]
	e2fsck -fn "${snap[0]}"
	udevadm trigger --action=change --subsystem-match=block
	xb-snap remove "${snap[@]}" 2>words
	[ ! -s words ] || fail "not silent: $(cat words)"
done
