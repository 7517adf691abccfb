#!/bin/bash
# What the kernel and LVM do here is what the commands rely on: an overflowed snapshot says so and can't be read;
# thin_delta names the blocks that changed.
mklv dom0a xblab0/vm1 16M
fill dom0a /dev/xblab0/vm1
before=$(digest dom0a /dev/xblab0/vm1)
lvcreate -q -y -s -n snap -L 4M xblab0/vm1
dd if=/dev/urandom of=/dev/xblab0/vm1 bs=1M count=2 oflag=direct status=none
equal "$(digest dom0a /dev/xblab0/snap)" "$before" "the snapshot's content"
dd if=/dev/urandom of=/dev/xblab0/vm1 bs=1M count=8 oflag=direct status=none
attr=$(lvs --noheadings -o lv_attr xblab0/snap | xargs)
equal "${attr:4:1}" I "5th attribute of the overflowed snapshot"
status 1 dd if=/dev/xblab0/snap of=/dev/null bs=4k count=1 iflag=direct
lvremove -q -y xblab0/snap

thinpool dom0a xblab0/pool 64M
mkthin dom0a xblab0/pool t1 32M
fill dom0a /dev/xblab0/t1
lvcreate -q -y -s -n t1a xblab0/t1
dd if=/dev/urandom of=/dev/xblab0/t1 bs=64k seek=9 count=2 oflag=direct status=none
lvcreate -q -y -s -n t1b xblab0/t1
dmsetup message xblab0-pool-tpool 0 reserve_metadata_snap
thin_delta -m --snap1 2 --snap2 3 /dev/mapper/xblab0-pool_tmeta | tee delta.xml
dmsetup message xblab0-pool-tpool 0 release_metadata_snap
grep -q '<different begin="9" length="2"/>' delta.xml
lvremove -q -y xblab0/t1a xblab0/t1b

testdomain dom0a web1 /dev/xblab0/vm1
RUNSTATE=5 testdomain dom0a web2 /dev/xblab0/vm2
virsh list --name | tee domains
equal "$(xargs <domains)" web1 "the list of running domains"
virsh domblklist web1 | tee disks
grep -q 'xvda */dev/xblab0/vm1' disks
equal "$(onb virsh list --all --name | xargs)" "" "the list of dom0b's domains"
logger -p local3.info -t xblab "a line for syslog"
until grep -q 'local3.info xblab: a line for syslog' /run/syslog; do sleep 0.1; done
