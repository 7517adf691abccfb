#!/bin/bash
# pair: campaign
# Saved memory is a part of the guest: where it is, the guest is neither active nor off (75). libvirt's state does not tell:
# "saved" is also said after `virsh save FILE`, and "unknown" of a guest that is saved after libvirt was restarted.
# shellcheck disable=SC2016 # for the hosts' shells
on dom0a bash -c 'for do in destroy managedsave-remove undefine; do virsh -q $do web; done; rm -f /srv/web.*' 2>/dev/null || true
on dom0a truncate -s 10M /srv/web.img
on dom0a bash -c 'virsh -q define /dev/stdin; virsh -q start web' <<'END'
<domain type='qemu'>
  <name>web</name><uuid>11111111-2222-4333-8444-666666666666</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><source file='/srv/web.img'/><target dev='vda' bus='virtio'/></disk>
  </devices>
</domain>
END
saved() {
	echo "--- $(on dom0a virsh domstate --reason web)"
	status 75 on dom0a xb-locate --active web 2>words
	grep 'its memory is saved by virsh managedsave: .* virsh managedsave-remove web' words
	status 75 on dom0a xb-locate --active --final web 2>words
	status 1 on dom0a xb-locate web # on its own host it is off
	[[ $(on dom0a xb-locate --active none web 2>/dev/null || true) = $'none\tno\nweb\tbusy' ]]
}
[[ $(on dom0a xb-locate --active web) = yes ]]
on dom0a virsh -q managedsave web
saved
# shellcheck disable=SC2016
on dom0a bash -c 'kill $(pidof libvirtd); while pidof libvirtd >/dev/null; do sleep 0.1; done; setsid libvirtd >>/var/log/libvirt/libvirtd.log 2>&1 </dev/null &'
until_so on dom0a virsh -q list >/dev/null 2>&1
[[ $(on dom0a virsh domstate --reason web) = 'shut off (unknown)' ]]
saved
on dom0a virsh -q managedsave-remove web
[[ $(on dom0a xb-locate --active --final web) = no ]]

echo "--- saved to somebody's own file"
on dom0a virsh -q start web
on dom0a virsh -q save web /srv/web.memory
[[ $(on dom0a virsh domstate --reason web) = 'shut off (saved)' ]]
[[ $(on dom0a xb-locate --active web) = no ]]
status 75 on dom0a xb-locate --active --final web
on dom0a virsh -q restore /srv/web.memory
[[ $(on dom0a xb-locate --active --final web) = yes ]]
on dom0a virsh -q destroy web
[[ $(on dom0a xb-locate --active --final web) = no ]]
on dom0a bash -c 'virsh -q undefine web; rm /srv/web.*'
