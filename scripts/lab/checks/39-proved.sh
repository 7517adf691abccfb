#!/bin/bash
# lab: campaign
# A standby on a logical volume is one disk's, by whatever name the volume is called; what xb-patch writes to one, thick
# or thin, it tells from what others write, so that it need not read all of it again.
mklv dom0b xblab0/a 8M
thinpool dom0b xblab0/pool 32M
mkthin dom0b xblab0/pool t 8M
mklv dom0a xblab0/src 8M
fill dom0a /dev/xblab0/src
fill dom0b /dev/xblab0/a
# sync TARGET OPTION...: what xb-patch says is in "said"
sync() {
	local target=$1
	shift
	onb xb-sig "$target" | xb-delta /dev/xblab0/src | onb xb-patch "$@" "$target" 2>said
}

echo "--- two names, one standby"
sync /dev/xblab0/a --disk web1/xvda
status 80 sync /dev/mapper/xblab0-a --disk web2/xvda
grep -q 'standby of web1/xvda, not of web2/xvda' said
onb ln -s mapper/xblab0-a /dev/xblab0-link
status 80 sync /dev/xblab0-link --force-diverged --disk web2/xvda
onb rm /dev/xblab0-link
sync /dev/mapper/xblab0-a --disk web1/xvda
equal "$(cat said)" "" "what xb-patch says"

echo "--- own writes are told from others'"
for target in a t; do
	sync /dev/xblab0/$target -q
	for i in 0 1 2; do
		dd if=/dev/urandom of=/dev/xblab0/src bs=4k seek=$((i * 100 + 7)) count=40 oflag=direct status=none
		blkdiscard -z -o $((4 << 20)) -l $((256 << (10 + i))) /dev/xblab0/src
		sync /dev/xblab0/$target -v
		! grep 'reading all of it' said || fail "all of $target was read"
	done
	equal "$(digest dom0b /dev/xblab0/$target)" "$(digest dom0a /dev/xblab0/src)" "the content of $target"
	onb rm /var/lib/xen-backup/*.seen
	onb "xb-sig /dev/xblab0/$target >sig; rm /var/lib/xen-backup/*.seen; dd if=/dev/xblab0/$target of=/dev/xblab0/$target bs=4k count=1 oflag=direct conv=notrunc status=none"
	onb cat sig | xb-delta /dev/xblab0/src | onb xb-patch -v /dev/xblab0/$target 2>said
	grep -q 'reading all of it' said || fail "$target was written to, and trusted"
done
