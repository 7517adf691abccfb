#!/bin/bash
# lab: campaign
# Failover and back: what dom0b wrote while it ran the DomU is never overwritten by dom0a's old image. Failback needs one
# --force-diverged where dom0a has writes that dom0b never got, else none, and sends what differs; then dom0a's copies
# are accepted again.
mklv dom0a xblab0/vm1 8M
mklv dom0b xblab0/vm1 8M
fill dom0a /dev/xblab0/vm1
write() { on "$1" dd if=/dev/urandom of=/dev/xblab0/vm1 bs=64k "seek=$2" count=8 oflag=direct status=none; }
runs_on() { # HOST...: and on no other
	local host
	for host in dom0a dom0b; do
		case " $* " in *" $host "*) testdomain $host web1 /dev/xblab0/vm1 ;; *) RUNSTATE=5 testdomain $host web1 /dev/xblab0/vm1 ;; esac
	done
}
# changed HOST: bytes that its last run found changed
changed() { on "$1" "sed -n 's/.*vm1: \([0-9]*\) bytes changed.*/\1/p' /run/syslog | tail -n 1"; }
for host in dom0a dom0b; do conf $host 1 DOMU=web1 'DOM0S="dom0a dom0b"'; done

runs_on dom0a
backup dom0a
same /dev/xblab0/vm1

echo "--- dom0a dies, having written what dom0b never got; dom0b takes over"
write dom0a 0
write dom0b 100
promoted=$(digest dom0b /dev/xblab0/vm1)
old=$(digest dom0a /dev/xblab0/vm1)

echo "--- dom0a comes back with the old image: refused, whatever dom0b does meanwhile"
runs_on dom0a dom0b
status 3 backup dom0a
grep -q '^### ERROR 81: DomU web1: it runs on dom0b too' mail
runs_on dom0a
onb 'sleep 1000 </dev/xblab0/vm1 >/dev/null 2>&1 & echo $! >/run/lab/sleep'
status 3 backup dom0a
grep -q '^### ERROR 75: DomU web1: remote Dom0 dom0b cannot tell whether the DomU runs there' mail
# shellcheck disable=SC2016 # there
onb 'kill $(cat /run/lab/sleep)'
status 3 backup dom0a
grep -q '^### ERROR 80: ' mail
grep -q 'xb-patch: .*diverged' mail
equal "$(digest dom0b /dev/xblab0/vm1)" "$promoted" "dom0b's image"

echo "--- failback"
runs_on dom0b
status 3 backup dom0b
grep -q '^### ERROR 80: ' mail
equal "$(digest dom0a /dev/xblab0/vm1)" "$old" "dom0a's image"
backup dom0b --force-diverged web1
logged dom0b 'xb-patch: .*diverged and may be overwritten all the same'
same /dev/xblab0/vm1
equal "$(changed dom0b)" $((2 * 8 * 65536)) "the number of bytes that failback sends"

echo "--- dom0a again, without force; and a failover with nothing unsent needs none"
runs_on dom0a
write dom0a 60
backup dom0a
same /dev/xblab0/vm1
runs_on dom0b
write dom0b 20
backup dom0b
same /dev/xblab0/vm1
equal "$(changed dom0b)" $((8 * 65536)) "the number of bytes that failback sends"

echo "--- a planned move: --final"
write dom0b 40
status 3 backup dom0b --final web1
grep -q '^### ERROR 75: ' mail
runs_on
onb ': >/run/syslog'
backup dom0b --final web1
same /dev/xblab0/vm1
! onb grep 'take.snapshot' /run/syslog || fail "--final took a snapshot"

echo "--- the same where only xl is: xl's configuration tells the disks"
for host in dom0a dom0b; do
	on $host "cat >/usr/local/sbin/xl; chmod 755 /usr/local/sbin/xl; ln -s /bin/false /usr/local/sbin/virsh" <<'X'
#!/bin/sh
case $* in
list)
	echo "Name                                        ID   Mem VCPUs	State	Time(s)"
	echo "Domain-0                                     0  2048     2     r-----     505.8"
	;;
"list -l") echo "[]" ;;
*) exit 1 ;;
esac
X
done
onb 'mkdir -p /etc/xen; cat >/etc/xen/web1.cfg' <<'X'
name = "web1"
type = "pv"
disk = [ "phy:/dev/xblab0/vm1,xvda,w" ]
X
write dom0b 50
backup dom0b TOOLSTACK=xl --final web1
same /dev/xblab0/vm1
for host in dom0a dom0b; do on $host rm /usr/local/sbin/xl /usr/local/sbin/virsh; done
