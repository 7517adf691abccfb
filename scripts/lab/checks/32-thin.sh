#!/bin/bash
# Thin volumes: a DomU of two disks is paused while they are snapshotted, and resumed even if the wrapper dies; a thin
# standby stays thin; a pool that fills up in mid-apply leaves an apply that the next run finishes.
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

echo "--- the pool fills up" # meanwhile the DomU is resumed
write t1 0 4
write t2 0 10
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"'
status 3 backup dom0a
logged dom0a '^local3.info ## removed leftover snapshot /dev/xblab0/xb-t1-'
same /dev/xblab0/t1
logged dom0a 'dom0b:/dev/xblab0/t2: .*finish it with: xb-patch --recover /dev/xblab0/t2'
onb xb-patch --state /dev/xblab0/t2 | grep '"phase":"applying"'
for command in 'xb-sig /dev/xblab0/t2 >/dev/null' 'xb-patch /dev/xblab0/t2 </dev/null'; do
	status 83 onb "$command"
done
status 3 backup dom0a
logged dom0a '### ERROR 7[34]: DomU web1, disk xvdb: cannot finish the apply on dom0b:/dev/xblab0/t2: '
onb 'lvextend -q -L 64M xblab0/pool'
backup dom0a
logged dom0a '### remote Dom0 dom0b: finish the interrupted apply on /dev/xblab0/t2$'
same /dev/xblab0/t2
nothing_left

until running web1; do sleep 0.1; done
took=$((($(sed -n 's/ resume//p' /run/lab/paused) - killed) / 1000000))
[ $took -le 30 ] || fail "the DomU was paused for $took s"
