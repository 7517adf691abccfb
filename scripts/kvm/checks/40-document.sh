#!/bin/bash
# pair: campaign
# The document that travels starts the right guest there: what `virsh start` would have used here, passwords included, with
# the disks of that host. The one of `virsh dumpxml`, which travelled before, does not start at all.
# shellcheck disable=SC2016 # for the hosts' shells
for h in dom0a dom0b; do
	on $h bash -c 'for do in destroy managedsave-remove "undefine --nvram"; do virsh -q $do web; done; rm -rf /srv/web; mkdir /srv/web' 2>/dev/null || true
done
on dom0a bash -c 'cd /srv/web; mkdir pool; truncate -s 10M pool/root inst.iso read.img scratch.img
	virsh -q pool-create-as web dir --target /srv/web/pool; virsh -q define /dev/stdin; virsh -q start web' <<'END'
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name><uuid>11111111-2222-4333-8444-666666666666</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='web' volume='root'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><source file='/srv/web/inst.iso'/><target dev='hda' bus='ide'/><readonly/></disk>
    <disk type='file' device='disk'><source file='/srv/web/read.img'/><target dev='vdb' bus='virtio'/><readonly/></disk>
    <disk type='file' device='disk'><source file='/srv/web/scratch.img'/><target dev='vdc' bus='virtio'/></disk>
    <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1' passwd='geheim12'/>
  </devices>
  <qemu:commandline><qemu:arg value='-name'/><qemu:arg value='guest=web,debug-threads=on'/></qemu:commandline>
</domain>
END

echo "--- as it was"
on dom0a virsh dumpxml web >old.xml
status 1 grep -q geheim12 old.xml
on dom0b virsh -q define /dev/stdin <old.xml
status 1 on dom0b virsh -q start web
on dom0b virsh -q undefine web

echo "--- as it is"
[[ $(on dom0a xb-locate --copy --document-file /srv/web/document --bundle /srv/web/bundle web | cut -f 7 | uniq) = 11111111-2222-4333-8444-666666666666 ]]
on dom0a cat /srv/web/document.xml >document
status 1 grep -E "<domain [^>]*id=|pool=|<cpu mode='custom' match='exact' check='full'" document
on dom0b truncate -s 10M "/srv/web/my root.img"
on dom0a cat /srv/web/bundle | on dom0b xb-locate --store web --map file:///srv/web/pool/root=file:///srv/web/my%20root.img --drop vdc 2>words
sort words | diff - <(sort <<'END'
xb-locate: web: left out: the medium of cdrom hda: /srv/web/inst.iso is not here
xb-locate: web: left out: disk vdb: /srv/web/read.img is not here
xb-locate: web: left out: disk vdc: it is excluded
END
)
[[ $(on dom0b stat -c %a /var/lib/xen-backup/xml/web.xml) = 600 ]]
on dom0b virsh -q define /var/lib/xen-backup/xml/web.xml
on dom0b virsh -q start web
on dom0b virsh dumpxml --security-info web >there
for word in "passwd='geheim12'" "source file='/srv/web/my root.img'" "<qemu:arg value='-name'/>"; do grep -F "$word" there; done
[[ $(on dom0b virsh qemu-monitor-command web --hmp info vnc) = *'Auth: vnc'* ]]
[[ $(on dom0b virsh -q domblklist web | wc -l) = 2 ]] # and the drive is empty
on dom0b virsh -q domblklist web | grep 'hda *-'

echo "--- a disk that only the running guest has"
on dom0a truncate -s 10M /srv/web/hot.img
on dom0a virsh -q attach-disk web /srv/web/hot.img vdd --live
on dom0a xb-locate --copy --document-file /srv/web/document web 2>&1 >/dev/null | grep 'disk vdd is attached to the running domain, but not in its definition'

echo "--- a secret"
on dom0a virsh -q secret-define /dev/stdin <<'END'
<secret ephemeral='no' private='yes'><uuid>0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f</uuid><usage type='ceph'><name>client.web secret</name></usage></secret>
END
cat >needs.xml <<'END'
<domain type='qemu'><name>needs</name><devices><disk type='network'><source protocol='rbd' name='p/i'/>
<auth username='u'><secret type='ceph' usage='client.web secret'/></auth><target dev='vda'/></disk></devices></domain>
END
on dom0a xb-locate --store needs <needs.xml 2>words
[[ ! -s words ]]
on dom0b xb-locate --store needs <needs.xml 2>&1 | grep 'needs: missing here: the secret "client.web secret" of type ceph'
on dom0a virsh -q secret-undefine 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f

for h in dom0a dom0b; do on $h bash -c 'virsh -q destroy web; virsh -q undefine web; rm -rf /srv/web'; done
on dom0a virsh -q pool-destroy web
