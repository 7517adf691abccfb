#!/bin/bash
# pair: campaign
# The variables of a guest's UEFI firmware and the state of its TPM travel with its document: put in place by the one command
# that the document names, they are what the guest there starts with; with a point in time those of then. Needs ovmf and
# swtpm-tools.
for file in /usr/share/OVMF/OVMF_VARS_4M.fd /usr/bin/swtpm_setup; do
	[ -e $file ] || { echo "passed over: no $file"; exit; }
done
# shellcheck disable=SC2016 # for the hosts' shells
for h in dom0a dom0b; do
	on $h bash -c 'for do in destroy "undefine --nvram"; do virsh -q $do uefi; done; truncate -s 10M /srv/uefi.img' 2>/dev/null || true
done
on dom0a bash -c 'mkdir -p /var/lib/swtpm-localca; virsh -q define /dev/stdin; virsh -q start uefi' <<'END'
<domain type='qemu'>
  <name>uefi</name><uuid>11111111-2222-4333-8444-777777777777</uuid><memory unit='MiB'>128</memory><vcpu>1</vcpu>
  <os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><source file='/srv/uefi.img'/><target dev='vda' bus='virtio'/></disk>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <filesystem type='mount' accessmode='mapped'><source dir='/srv'/><target dir='srv'/></filesystem>
  </devices>
</domain>
END
vars=/var/lib/libvirt/qemu/nvram/uefi_VARS.fd tpm=/var/lib/libvirt/swtpm/11111111-2222-4333-8444-777777777777/tpm2/tpm2-00.permall
until_so on dom0a [ -s $tpm ]
on dom0a virsh -q destroy uefi
on dom0a bash -c "printf 'a boot entry' | dd of=$vars conv=notrunc bs=1 seek=100000" 2>/dev/null

on dom0a xb-locate --copy --final --document-file /srv/uefi --bundle /srv/bundle uefi 2>words
grep 'uefi: not carried: the shared directory /srv' words
on dom0a cat /srv/bundle | on dom0b xb-locate --store uefi
on dom0b grep -F 'tar -C / -xpf /var/lib/xen-backup/xml/uefi.files.tar' /var/lib/xen-backup/xml/uefi.xml >put
[[ $(on dom0b stat -c '%a %U' /var/lib/xen-backup/xml/uefi.files.tar) = '600 root' ]]
on dom0b bash -ec "$(cat put)"
[[ $(on dom0a sha256sum $vars $tpm) = "$(on dom0b sha256sum $vars $tpm)" ]]
[[ $(on dom0a stat -c '%U %a' $vars $tpm ${tpm%/*/*}) = "$(on dom0b stat -c '%U %a' $vars $tpm ${tpm%/*/*})" ]]
on dom0b virsh -q define /var/lib/xen-backup/xml/uefi.xml
on dom0b virsh -q start uefi
on dom0b grep -q 'a boot entry' $vars
status 1 on dom0b grep -s manufactur /var/log/swtpm/libvirt/qemu/uefi-swtpm.log # no new TPM

echo "--- as they were at a point in time"
on dom0b bash -c 'virsh -q destroy uefi; virsh -q undefine --nvram uefi'
copies() { # HOUR
	on dom0a bash -c "printf 'boot entry $1' | dd of=$vars conv=notrunc bs=1 seek=100000; echo $1 >>/srv/uefi.img" 2>/dev/null
	on dom0b xb-sig /srv/uefi.img | on dom0a xb-delta /srv/uefi.img |
		on dom0b xb-patch --auto --peer dom0a --disk uefi/vda --keep 9 --taken "2026-11-26T0$1:00:00Z" /srv/uefi.img
	on dom0a xb-locate --copy --final --bundle /srv/bundle uefi 2>/dev/null
	on dom0a cat /srv/bundle | on dom0b xb-locate --store uefi
}
for hour in 1 2 3; do copies $hour; done
on dom0b env -i /usr/local/sbin/xen-failover.sh promote uefi --at 2026-11-26T02:30:00Z --trust-document 2>&1 | tee said
grep 'its document as of 2026-11-26T02:00:00Z' said
grep 'DomU uefi runs here' said
on dom0b grep -q 'boot entry 2' $vars

for h in dom0a dom0b; do on $h bash -c 'virsh -q destroy uefi; virsh -q undefine --nvram uefi; xb-snap list --points | cut -f 5 | xargs -r xb-snap remove; rm -f /srv/uefi.img /srv/uefi.xml /srv/bundle' 2>/dev/null || true; done
