#!/bin/bash
# lab: campaign
# Pools, and the parts of which LVM makes volumes, are no disks, whatever their names and device-mapper UUIDs are: xb-locate
# and xb-snap refuse all that LVM calls private, and nothing else.
modprobe -a dm-raid raid1 dm-integrity dm-mirror dm-cache dm-cache-smq dm-writecache
for i in 1 2 3; do
	truncate -s 120M "/tmp/pv$i"
	losetup --find --show "/tmp/pv$i"
done >loops
mapfile -t loop <loops
vgcreate -q -y xbroles "${loop[@]}" >/dev/null
# shellcheck disable=SC2064 # the devices of now
trap "vgremove -q -ff -y xbroles >/dev/null 2>&1; losetup -d ${loop[*]}; rm -f /tmp/pv[123]" EXIT
lv() { lvcreate -q -y "$@" >/dev/null; }
{
	lv --type raid1 -m1 -L 8M -n ri --raidintegrity y xbroles
	lv --type mirror -m1 -L 4M -n mi xbroles
	lv -L 8M -n ca xbroles
	lv --type cache-pool -L 8M -n cp xbroles
	lvconvert -q -y --type cache --cachepool xbroles/cp xbroles/ca
	lv -L 8M -n cv xbroles
	lv -L 8M -n fast xbroles
	lvconvert -q -y --type cache --cachevol xbroles/fast xbroles/cv
	lv --type thin-pool -L 8M -n empty xbroles
	lv --type thin-pool -L 8M -n pool xbroles
	lv -V 8M -T xbroles/pool -n thin
	lv -L 4M -n plain xbroles
	lv -s -L 4M -n snap xbroles/plain
} 2>words || fail "$(cat words)"
lvs -a -o lv_name,lv_role xbroles

# What device-mapper has of the group, by UUID, and what LVM says of it. Devices that are only layers of a volume have
# UUIDs of their own, which LVM does not list.
lvs -a --noheadings --config 'report/mark_hidden_devices=0' -o vg_uuid,lv_uuid,lv_role xbroles | tr -d - | awk '{ print "LVM-" $1 $2, ($3 ~ /^public/ ? "public" : "private") }' | sort >roles
dmsetup info -c --noheadings --separator ' ' -o uuid,name | grep ' xbroles-' | sort >devices
join -a 1 devices roles >found
cat found
public=0 private=0
while read -r _ name role; do
	testdomain dom0a guest "/dev/mapper/$name"
	if [ "$role" = public ]; then
		public=$((public + 1))
		xb-locate guest >disks || fail "$name is not listed: it is public"
		grep -q $'^xvda\t/dev/xbroles/' disks || fail "$name is listed as $(cat disks)"
	else
		private=$((private + 1))
		refused 78 "hidden device of LVM" xb-locate guest
		refused 78 "hidden part\|a pool" xb-snap create --owner none "/dev/mapper/$name"
	fi
done <found
echo "$public public, $private private"
((public >= 7 && private >= 20)) || fail "$public public and $private private devices are too few"
grep 'ri_rimage_0_imeta private' found

echo "--- of a volume that LVM can't be asked about nothing is said"
mkdir broken
printf '#!/bin/sh\necho "no answer" >&2\nexit 5\n' >broken/lvs
chmod 755 broken/lvs
testdomain dom0a guest /dev/xbroles/ca
refused 78 "cannot tell what kind of logical volume.*no answer" env PATH="$PWD/broken:$PATH" xb-locate guest
