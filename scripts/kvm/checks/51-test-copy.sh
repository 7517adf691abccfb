#!/bin/bash
# A copy of domu1 is started from its standbys while it runs elsewhere, and shows that it lives: by its console or its guest
# agent. Nothing of it stays, the standby is not touched, and a run that comes meanwhile copies as usual. Without a sign of
# life it is 1.
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
failover test domu1 --memory 96M --for 10m --pattern 'nobody says this' >said.2 &
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
