#!/bin/bash
# lab: campaign
# Runs of the wrapper that read only what has changed: thin volumes as TRACK=auto has it, a thick one with TRACK=yes. What
# the standby is then is compared byte for byte, and the digest that is remembered with that of a full reading.
vg=xblab0
thinpool dom0a $vg/pool 128M
thinpool dom0b $vg/pool 128M
for host in dom0a dom0b; do
	mkthin $host $vg/pool t1 16M
	mkthin $host $vg/pool t2 16M
	mklv $host $vg/thick 16M
done
for disk in t1 t2 thick; do fill dom0a /dev/$vg/$disk; done
write() { dd if=/dev/urandom of="/dev/$vg/$1" bs=64k seek="$2" count="$3" oflag=direct iflag=fullblock status=none; }
testdomain dom0a web1 /dev/$vg/t1 /dev/$vg/t2
testdomain dom0a web2 /dev/$vg/thick
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"'
conf dom0a 2 DOMU=web2 'DOM0S="dom0a dom0b"' TRACK=yes SNAPSHOT_SIZE=8M

# ran TRACKED READ...: how the last copy of each disk was made, and how many bytes of it were read.
ran() {
	local disk state
	for disk in t1 t2 thick; do
		same /dev/$vg/$disk
		xb-sig --summary found /dev/$vg/$disk >/dev/null
		state=$(onb xb-patch --state /dev/$vg/$disk | jq -r .digest)
		equal "$(jq -r .digest found)" "$state" "the digest of $disk by a full reading"
	done
	equal "$(xb-patch --list --json | jq -r '.source[] | "\(.tracked // false) \(.bytes_read)"' | xargs)" "$*" "how the disks were read"
	nothing_left
}
bases() { xb-snap list | grep -c "base of dom0b$" || true; }
mib=$((1 << 20)) kib64=$((64 << 10))

echo "--- the first run, and what has changed since"
backup dom0a
ran false $((16 * mib)) false $((16 * mib)) false $((16 * mib))
equal "$(bases)" 3 "the number of bases"
write t1 3 1
blkdiscard -o 1M -l 1M /dev/$vg/t1
write t1 100 3
write t2 9 2
write thick 40 1
backup dom0a --dry-run
equal "$(grep -c '^#### dom0b:/dev/xblab0/.*: tracked$' mail)" 3 "the number of disks that are tracked"
backup dom0a
equal "$(<mail)" "" "the mail of a good run"
ran true $((2 * (mib + 4 * kib64))) true $((4 * kib64)) true $((2 * kib64))
equal "$(bases)" 3 "the number of bases"

echo "--- the last copies before a move: of what is shut off, and nobody writes to it since before its snapshot"
RUNSTATE=5 testdomain dom0a web1 /dev/$vg/t1 /dev/$vg/t2
RUNSTATE=5 testdomain dom0a web2 /dev/$vg/thick
write t1 50 2
write thick 60 1
for domu in web1 web2; do backup dom0a --final $domu; done
ran true $((4 * kib64)) true 0 true $((2 * kib64))
equal "$(bases)" 3 "the number of bases"
xen-backup.sh --status | tee now
grep 'web1: .*nothing was written to it since' now
grep 'web2: .*or a snapshot of it is gone' now # its older base, which somebody could have merged into it
testdomain dom0a web1 /dev/$vg/t1 /dev/$vg/t2
testdomain dom0a web2 /dev/$vg/thick

echo "--- a base is gone, and one is another snapshot of the same name"
read -r gone < <(xb-snap list | sed -n '/\tbase of dom0b$/s/\t.*//p' | grep -- -t1-)
xb-snap remove "$gone"
read -r other < <(xb-snap list | sed -n '/\tbase of dom0b$/s/\t.*//p' | grep -- -t2-)
lvrename -q $vg "${other##*/}" aside >/dev/null
lvcreate -q -y -s -pr -kn -n "${other##*/}" $vg/t2 >/dev/null
write t1 7 1
write t2 8 1
backup dom0a
equal "$(<mail)" "" "the mail of a run without bases"
logged dom0a "the base of dom0b of .* can't be used: .*is not what it was"
logged dom0a '#### dom0b:/dev/xblab0/t1: compared in full: no snapshot is kept here'
lvremove -q -y "$other" $vg/aside # nobody's now: they stay
ran false $((16 * mib)) false $((16 * mib)) true 0

echo "--- killed before the commit"
write t1 20 1
write t2 21 1
cat >/usr/local/sbin/ssh <<'X'
#!/bin/sh
case $* in *--commit*) : >/run/lab/commit; sleep 1000 ;; esac
exec /usr/bin/ssh "$@"
X
chmod 755 /usr/local/sbin/ssh
start
until [ -e /run/lab/commit ]; do sleep 0.1; done
kill_run
rm /usr/local/sbin/ssh
write t1 30 1
backup dom0a
ran true $((4 * kib64)) true $((2 * kib64)) true 0
equal "$(bases)" 3 "the number of bases"

echo "--- TRACK=no, and no bases"
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"' TRACK=no
conf dom0a 2 DOMU=web2 'DOM0S="dom0a dom0b"' SNAPSHOT_SIZE=8M
write thick 50 1
backup dom0a
ran false $((16 * mib)) false $((16 * mib)) true $((2 * kib64))
equal "$(bases)" 0 "the number of bases"
