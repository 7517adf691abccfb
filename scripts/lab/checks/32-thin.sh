#!/bin/bash
# lab: campaign
# Thin volumes: a DomU of two disks is paused while they are snapshotted, and resumed even if the wrapper dies; a thin
# standby stays thin; where one's pool has no room for what changed, both keep their old images.
thinpool dom0a xblab0/pool 64M
thinpool dom0b xblab0/pool 12M
for host in dom0a dom0b; do
	mkthin $host xblab0/pool t1 16M
	mkthin $host xblab0/pool t2 16M
done
onb 'lvchange -q --errorwhenfull y xblab0/pool'
write() { dd if=/dev/urandom of="/dev/xblab0/$1" bs=1M seek="$2" count="$3" oflag=direct iflag=fullblock status=none; }
# used: 64 KiB blocks of dom0b's pool
used() { onb dmsetup status xblab0-pool-tpool | sed -E 's/.* ([0-9]+)\/[0-9]+ - .*/\1/'; }
write t1 0 1
write t1 4 2
write t2 3 1
testdomain dom0a web1 /dev/xblab0/t1 /dev/xblab0/t2
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"' PAUSE=auto
pausable

echo "--- first copies"
backup dom0a
same /dev/xblab0/t1
same /dev/xblab0/t2
equal "$(used)" $((4 * 16)) "the number of blocks that the standbys take"
equal "$(cut -d' ' -f2 /run/lab/paused | xargs)" "suspend resume" "what was done to the DomU"
running web1
nothing_left

echo "--- what the source discards or zeroes is given back"
blkdiscard -o 5M -l 1M /dev/xblab0/t1
blkdiscard -z -o 3M -l 1M /dev/xblab0/t2
write t1 8 1
backup dom0a
same /dev/xblab0/t1
same /dev/xblab0/t2
onb 'cmp -n 1048576 -i 5242880:0 /dev/xblab0/t1 /dev/zero'
equal "$(used)" $((3 * 16)) "the number of blocks after a discard"

echo "--- the wrapper is killed while the DomU is paused"
: >/run/lab/paused
cat >/usr/local/sbin/lvcreate <<'X'
#!/bin/sh
# the second snapshot waits until xb-snap is killed, and then is none
case $* in *--snapshot*xblab0/t2) : >/run/lab/second; while pgrep -x xb-snap >/dev/null; do sleep 0.1; done; exit 5 ;; esac
exec /usr/sbin/lvcreate "$@"
X
chmod 755 /usr/local/sbin/lvcreate
start
until [ -e /run/lab/second ]; do sleep 0.1; done
killed=${EPOCHREALTIME/./}
kill_run
rm /usr/local/sbin/lvcreate
equal "$(cut -d' ' -f2 /run/lab/paused)" suspend "what was done to the DomU"

echo "--- the pool is too full" # meanwhile the DomU is resumed
write t1 0 4
write t2 0 10
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"'
before=$(digest dom0b /dev/xblab0/t1; digest dom0b /dev/xblab0/t2)
status 3 backup dom0a
logged dom0a '^local3.info ## removed leftover snapshot /dev/xblab0/xb-t1-'
logged dom0a '### ERROR 73: DomU web1: its disks on dom0b did not become the new ones together: '
logged dom0a 'DomU web1, remote Dom0 dom0b: .*no room for the image in the thin pool of /dev/xblab0/t[12]: it needs '
logged dom0a '### DomU web1: its standby on dom0b is of 20'
equal "$(digest dom0b /dev/xblab0/t1; digest dom0b /dev/xblab0/t2)" "$before" "the standbys without room"
onb xb-patch --state /dev/xblab0/t2 | grep '"phase":"clean"'
onb 'lvextend -q -L 64M xblab0/pool'
backup dom0a
equal "$(<mail)" "" "the mail of a good run"
same /dev/xblab0/t1
same /dev/xblab0/t2
nothing_left

until running web1; do sleep 0.1; done
took=$((($(sed -n 's/ resume//p' /run/lab/paused) - killed) / 1000000))
[ $took -le 30 ] || fail "the DomU was paused for $took s"
