#!/bin/bash
# lab: campaign
# lab: udev
# What a test copy of a DomU is given: snapshots that can be written to, of thick and thin standbys and of a point in
# time, under which the standby stays what it was.
vg=xblab0
thinpool dom0a $vg/pool 100M
mkthin dom0a $vg/pool thin 8M
lvcreate -qq -y -L 8M -n thick $vg
for disk in thin thick; do head -c 8M /dev/urandom | tee /run/$disk >/dev/$vg/$disk; done
cp /run/thin /run/point
head -c 8M /dev/urandom >/run/newer
xb-sig /dev/$vg/thin | xb-delta /run/thin |
	xb-patch --auto --peer dom0b --disk web/thin --taken 2026-11-26T01:00:00Z /dev/$vg/thin
xb-sig /dev/$vg/thin | xb-delta /run/newer |
	xb-patch --auto --peer dom0b --disk web/thin --keep 3 --taken 2026-11-26T02:00:00Z /dev/$vg/thin
cp /run/newer /run/thin
point=$(xb-snap list --points --at 2026-11-26T01:30:00Z /dev/$vg/thin | cut -f 5)
sources=("/dev/$vg/thin" "/dev/$vg/thick" "$point")
images=(/run/thin /run/thick /run/point)
mapfile -t snapshots < <(xb-snap create --writable --uri --owner $$ --size 12M -- "${sources[@]}")
((${#snapshots[@]} == 3)) || fail "not three snapshots: ${snapshots[*]}"
for i in 0 1 2; do
	cmp -n 8388608 "${snapshots[i]}" "${images[i]}"
	head -c 2M /dev/urandom | dd of="${snapshots[i]}" bs=64k oflag=direct iflag=fullblock status=none
	cmp -s -n 2097152 "${snapshots[i]}" "${images[i]}" && fail "${snapshots[i]} has not taken what was written"
	cmp -n 8388608 "${sources[i]}" "${images[i]}"
done
xb-snap remove -- "${snapshots[@]}"
xb-snap list | cut -f 1 >/run/left
[[ $(</run/left) = "$point" ]] || fail "left: $(</run/left)"
xb-snap remove -- "$point"
lvremove -qq -y $vg/thick
