#!/bin/bash
# pair: campaign
# Memory that libvirt has saved is a part of domu1: a usual run skips it on its own host, the last copy before a move is
# refused, with the cure (75), and so is a new disk for a host that holds saved memory (75).
fresh
backup dom0a
goes_on dom0a

echo "--- on its own host"
on dom0a virsh -q managedsave domu1
backup dom0a
status 3 backup dom0a --final domu1
grep '^### ERROR 75: ' mail
grep 'managedsave-remove' mail
on dom0a virsh -q start domu1
goes_on dom0a
on dom0a virsh -q destroy domu1
backup dom0a --final domu1
instant dom0b

echo "--- on the other one"
on dom0b virsh -q define /var/lib/xen-backup/xml/domu1.xml
on dom0b virsh -q start domu1
goes_on dom0b
on dom0b virsh -q managedsave domu1
old=$(on dom0b sha256sum /srv/root.img)
on dom0a virsh -q start domu1
goes_on dom0a
status 3 backup dom0a
grep '^### ERROR 75: ' mail
[[ $(on dom0b sha256sum /srv/root.img) = "$old" ]]
