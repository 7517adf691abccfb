#!/bin/bash
# lab: campaign
# lab: udev
# LVM works with systemd-udevd and dmeventd running, as on an installed host, before and after a power cut.
mklv dom0b xblab0/vm1 8M
pidof systemd-udevd
onb 'lvcreate -q -y -s -n snap -L 4M xblab0/vm1; pidof systemd-udevd dmeventd
	udevadm info -q symlink /dev/xblab0/snap; lvremove -q -y xblab0/snap'
crashb
onb 'pidof systemd-udevd; udevadm info -q symlink /dev/xblab0/vm1' | tee links
grep -q 'xblab0/vm1' links
