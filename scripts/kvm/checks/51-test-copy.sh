#!/bin/bash
# pair: campaign
# A copy of domu1 is started from its standbys while it runs elsewhere, and shows that it lives: by its console or its
# guest agent. Nothing of it stays, were its test killed, the standby is not touched, and a run that comes meanwhile
# copies as usual. Without a sign of life it is 1.
fresh agent
failover() { on dom0b env -i /usr/local/sbin/xen-failover.sh "$@" 2>&1 | tee said; }
images() { on dom0b sha256sum /srv/root.img /srv/data.img; }
nothing_left() {
	[[ -z $(on dom0b virsh -q list --all) && -z $(on dom0b xb-snap list) ]]
	[[ -z $(on dom0b find /run -maxdepth 1 -type d -name 'xen-failover*') ]]
}
backup dom0a
before=$(images)

echo "--- its console"
failover test domu1 --trust-document --for 10m --pattern 'BOOTED [0-9]'
grep 'its test copy says: BOOTED' said
on dom0b grep -a BOOTED /var/log/xen-backup/domu1.log
[[ $(images) = "$before" ]]
nothing_left

echo "--- its guest agent, and a run meanwhile"
failover test domu1 --memory 96M --for 10m >said.2 &
until_so on dom0b virsh -q domid domu1.xb-test
on dom0b virsh -q dumpxml domu1.xb-test >copy.xml
grep '98304' copy.xml
! grep -e 11111111-2222 -e /srv/root.img copy.xml
backup dom0a
wait $!
grep 'the guest agent of its test copy answers' said.2
nothing_left

echo "--- no sign of life"
before=$(images)
on dom0b mkdir -p /var/log/xen-backup
status 1 failover test domu1 --for 1s --pattern 'nobody says this'
grep 'no sign of life' said
[[ $(images) = "$before" ]]
nothing_left
backup dom0a
instant dom0b

campaign || exit 0
echo "--- two tests at once, and the first is stopped"
script() { basename "$(on dom0b find /run -maxdepth 1 -type d -name 'xen-failover.*')" | tr -dc 0-9; }
at_work() { failover test domu1 --pattern 'nobody says this' >said.2 & until_so on dom0b virsh -q domid domu1.xb-test; }
at_work
status 75 failover test domu1
grep 'another test of it is at work' said
on dom0b kill "$(script)"
status 143 wait $!
nothing_left

echo "--- killed: nobody can undo it but the kernel, its programs, and the next test"
at_work
on dom0b kill -9 "$(script)"
status 137 wait $!
until_so on dom0b bash -c '! virsh -q domid domu1.xb-test'
failover test domu1 --pattern 'BOOTED'
nothing_left

echo "--- what is not done"
on dom0b virsh -q define /dev/stdin <<'END'
<domain type='qemu'><name>domu1.xb-test</name><memory>1024</memory><os><type>hvm</type></os></domain>
END
status 75 failover test domu1
grep 'a domain of the name domu1.xb-test is here that is no test copy' said
on dom0b virsh -q undefine domu1.xb-test
status 66 failover test domu2
status 64 failover test ../domu1
status 64 failover test domu1 --for ever
status 64 failover test domu1 --dry-run
mkfifo end
on dom0b flock /var/lib/xen-backup/%2Fsrv%2Fdata.img.lock cat <end &
exec 5>end
until_so on dom0b sh -c '! flock -n /var/lib/xen-backup/%2Fsrv%2Fdata.img.lock true'
status 75 failover test domu1 # a run is at work
exec 5>&-
wait $!
nothing_left

echo "--- no room for what it writes"
before=$(images)
leave dom0b 1
failover test domu1 --for 20s --pattern 'nobody says this' || true
[[ $(images) = "$before" ]]
nothing_left
on dom0b rm /srv/ballast
backup dom0a
instant dom0b

echo "--- it runs here"
on dom0a virsh -q destroy domu1
failover promote domu1
status 75 failover test domu1
[[ -z $(on dom0b virsh -q domid domu1.xb-test) ]]
[[ $(on dom0b xb-locate --active domu1) = yes ]]
