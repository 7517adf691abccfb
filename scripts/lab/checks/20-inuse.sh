#!/bin/bash
# A device's users are found and named: LVs, snapshots, thin volumes and loop devices that are mounted, held,
# swapped on or open. These are the tests of the rooms that know devices, on devices of their own.
modprobe loop
for room in dm inuse blockdev; do
	"$room.test" -test.v -test.run 'Guard|LV|Mapper|Witness|Snapshot|Thin|LongTable|Unused'
done

echo "--- a device of device-mapper is known by its UUID, not by its number"
mklv dom0a xblab0/a 4M
dmsetup create xblabdev-first --table "0 8 zero"
dmsetup create xblabdev-disk --uuid xblab-disk --table "0 8192 linear /dev/xblab0/a 0"
xb-sig /dev/mapper/xblabdev-disk >/dev/null
dmsetup remove xblabdev-disk
dmsetup remove xblabdev-first
dmsetup create xblabdev-disk --uuid xblab-disk --table "0 8192 linear /dev/xblab0/a 0"
xb-patch --state /dev/mapper/xblabdev-disk | grep -q '"phase":"seen","identity":"xblab-disk"'
dmsetup remove xblabdev-disk
