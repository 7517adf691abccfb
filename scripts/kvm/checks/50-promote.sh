#!/bin/bash
# One command starts domu1 on the host of its standby: not while it runs elsewhere (81) or may (69), not by a document
# that does more than concern the guest until somebody trusts it (77), not from disks that somebody has written to (80) or
# that are of different moments (1). What is said before it is not done.
fresh
failover() { on dom0b env -i CONNECT_TIMEOUT=10 /usr/local/sbin/xen-failover.sh "$@" 2>&1 | tee said; }
nothing_there() { [[ -z $(on dom0b virsh -q list --all) && -z $(on dom0b find /run -maxdepth 1 -type d -name 'xen-failover*') ]]; }
link() { on dom0a ip link set veth0 "$1"; }

echo "--- nothing is kept yet"
status 66 failover promote domu1
backup dom0a
goes_on dom0a

echo "--- the document has a kernel and a file for the console"
status 77 failover promote domu1
grep 'not for the guest alone: os/kernel /' said
grep 'not for the guest alone: devices/serial/source path=/var/log/libvirt/domu1.log' said

echo "--- it runs on dom0a"
status 81 failover promote --trust-document domu1
grep 'runs on dom0a' said
backup dom0a
status 81 failover promote domu1 # of another set, the document is the same, and trusted
nothing_there

echo "--- dom0a is off"
goes_on dom0a
link down
on dom0a virsh -q destroy domu1
status 69 failover promote domu1
grep -e 'Make sure that it is off' said
failover promote domu1 --dry-run --the-other-host-is-off
grep 'domu1, disk vdb: /srv/data.img is of 20.* old, from dom0a: xxh64:4096:' said
grep 'would be started here' said
nothing_there

echo "--- the standby is no whole image"
on dom0b sh -c 'cp --reflink=always /srv/data.img /srv/kept; echo scribble >>/srv/data.img'
status 80 failover promote domu1 --the-other-host-is-off
grep 'vdb: /srv/data.img was written to since' said
nothing_there
# what was written back is no write to those who look at the bytes, but one all the same
on dom0b sh -c 'cat /srv/kept >/srv/data.img; rm /srv/kept'
status 80 failover promote domu1 --the-other-host-is-off
link up
on dom0a virsh -q start domu1
goes_on dom0a
backup dom0a

echo "--- another document has come"
on dom0b sh -c 'cp -p /var/lib/xen-backup/xml/domu1.xml /srv/domu1.xml
	sed "s|<emulator>.*<|<emulator>/tmp/evil<|" /srv/domu1.xml | xb-locate --store domu1 --set '"$(printf 'a%.0s' {1..26})"' --taken 2026-11-26T23:47:28Z'
status 77 failover promote domu1
grep 'not for the guest alone: devices/emulator /tmp/evil' said
on dom0b cp -p /srv/domu1.xml /var/lib/xen-backup/xml/domu1.xml

echo "--- the disks are of different moments"
on dom0a virsh -q destroy domu1
on dom0b xb-sig /srv/root.img | on dom0a xb-delta /srv/root.img | on dom0b xb-patch --peer dom0a --disk domu1/vda /srv/root.img
status 1 failover promote domu1
grep -e '--disks-of-different-times' said
failover promote domu1 --dry-run --disks-of-different-times
grep 'the disks are of different times: domu1/vda of 20' said
on dom0a virsh -q start domu1
goes_on dom0a
backup dom0a

echo "--- a run is at work"
mkfifo end
on dom0b flock /var/lib/xen-backup/%2Fsrv%2Fdata.img.lock cat <end &
exec 5>end
until_so on dom0b sh -c '! flock -n /var/lib/xen-backup/%2Fsrv%2Fdata.img.lock true'
goes_on dom0a # which nobody will ever copy
on dom0a virsh -q destroy domu1
status 75 failover promote domu1
exec 5>&-
wait $!
nothing_there

echo "--- promoted"
link down
rm -f "$(console dom0b)"
failover promote domu1 --the-other-host-is-off
grep 'dom0a cannot be reached: off, as whoever started this says' said
grep 'virsh autostart --disable domu1' said
[[ $(on dom0b xb-locate --active domu1) = yes ]]
until_so grep BOOTED "$(console dom0b)"
goes_on dom0b
status 81 failover promote domu1 --the-other-host-is-off
grep 'runs on this Dom0' said

echo "--- and copied back"
link up
status 3 backup dom0b # what dom0a has written at last exists nowhere else
grep '^### ERROR 80: ' mail
backup dom0b --force-diverged domu1
instant dom0a
