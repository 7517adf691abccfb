#!/bin/bash
# lab: campaign
# The wrapper as cron runs it: first copies, two remote Dom0s and one that is down, several DomUs, a writer
# during the copy, --verify, --dry-run. Rows of the list of the 2009 script's defects are named where they are shown.
mklv dom0a xblab0/vm1 8M
mklv dom0a xblab0/vm3 4M
for name in vm1 copy1 vm3; do made dom0b xblab0/$name; done
mkfs.ext4 -q /dev/xblab0/vm1
# The new standby is made where a guest's disk was: it is nobody's all the same.
onb "lvcreate -q -y -L 16M -n old xblab0; mkfs.btrfs -q -f -M -m single -d single /dev/xblab0/old; lvremove -q -y xblab0/old" >/dev/null
fill dom0a /dev/xblab0/vm3
testdomain dom0a web1 /dev/xblab0/vm1 /dev/xblab0/scratch
DRIVER=qemu testdomain dom0a web2 /dev/xblab0/vm3 # row "only driver name='phy'"
RUNSTATE=5 testdomain dom0a web3 /dev/xblab0/other
RUNSTATE=6 testdomain dom0a web4 /dev/xblab0/other
# 10.77.0.2, which is dom0b, stands for a third host; dom0c is down
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b 10.77.0.2"' EXCLUDE=xvdb CREATE_LV=xblab0 FIRST_COPY=in-place \
	'MAP="10.77.0.2:/dev/xblab0/vm1=/dev/xblab0/copy1"'
conf dom0a 2 DOMU=web2 'DOM0S="dom0c ip6 dom0b"' # row "IPv6, /etc/hosts"
conf dom0a 3 DOMU=web3 'DOM0S="debian dom0b"'
conf dom0a 4 DOMU=web4 'DOM0S="dom0a dom0b"'

# what was in the volume group before: a new volume shall not pass for somebody's disk
onb 'lvcreate -q -y -L 16M -n old xblab0 >/dev/null; mkfs.ext4 -q -F /dev/xblab0/old; sync; lvremove -q -y xblab0/old'

echo "--- the first run"
status 3 backup dom0a JOBS=1 # row "exit status"
same /dev/xblab0/vm1
same /dev/xblab0/vm1 /dev/xblab0/copy1 # row "only the first remote Dom0"
logged dom0a '^local3.info # Start /usr/local/bin/xen-backup.sh '
logged dom0a '^local3.info ## checking DomU web1$'
logged dom0a '^local3.info ## BACKUP: DomU web1 to remote Dom0\(s\): \[dom0b 10.77.0.2\]$'
logged dom0a '^local3.info ### local Dom0 dom0a: take snapshot xb-vm1-[a-z2-7]{8} for /dev/xblab0/vm1 with size 1G$'
logged dom0a '^local3.info ### sync web1 from dom0a to 10.77.0.2: /dev/xblab0/vm1 to /dev/xblab0/copy1$'
logged dom0a '^local3.info ## BACKUP: DomU web2 to remote Dom0\(s\): \[dom0c dom0b\]$'
logged dom0a '^local3.err ### DomU web2, remote Dom0 dom0c: .*dom0c' # row "stderr of cmd never reaches syslog"
logged dom0a '^local3.err ### ERROR 69: DomU web2: remote Dom0 dom0c cannot be reached$'
logged dom0a '^local3.info ## SKIP: DomU web3 is not running on this host: .*shut off'
logged dom0a '^local3.info ## SKIP: DomU web4 is not running on this host: .*crashed' # row "crashed|dying"
[ "$(grep -c '## BACKUP' /run/syslog)" = 2 ] || fail "a DomU that does not run was backed up"
logged dom0a '^local3.info # end backup script '
xb-locate --copy --exclude xvdb --document-file document web1 >/dev/null
cmp document.xml /etc/xen-backup.d/web1.xml
onb cat /var/lib/xen-backup/xml/web1.xml | grep -v scratch | grep -E "<source dev=./dev/xblab0/(vm1|copy1)"
# rows "arrays never reset" and "log_mesg inf": web1's CREATE_LV is not web2's
logged dom0a '^local3.err ### ERROR 66: DomU web2, disk xvda: dom0b:/dev/xblab0/vm3 cannot be written to$'
logged dom0a '^local3.err #### DomU web2, disk xvda, dom0b:/dev/xblab0/vm3: .* is missing or not active; on dom0b: lvcreate -y -L 4194304b -n vm3 xblab0$'
equal "$(grep -c ERROR mail)" "$(grep -c 'local3.err.*ERROR' /run/syslog)" "the number of errors in cron's mail"
nothing_left
onb "$(sed -n 's/.* on dom0b: //p' mail)"

echo "--- a second one, while web1 writes"
cat >/usr/local/sbin/xb-snap <<'X2'
#!/bin/bash
# what the snapshot of vm1 held, before it is removed
[ "$1" = remove ] && for snap; do [[ $snap != */xb-vm1-* ]] || dd if="$snap" bs=1M iflag=direct status=none | sha256sum | cut -d' ' -f1; done >>/run/lab/snapshot
exec /usr/local/bin/xb-snap "$@"
X2
chmod 755 /usr/local/sbin/xb-snap
mount /dev/xblab0/vm1 /mnt
while :; do
	for i in {1..100}; do head -c 20000 /dev/urandom >"/mnt/$i" && sync -d /mnt && sleep 0.2; done
done &
writer=$!
trap 'kill $writer; wait $writer || true; until umount /mnt; do sleep 0.1; done' EXIT # its last child may still write
status 3 backup dom0a # dom0c still is down, web2 goes to dom0b all the same
same /dev/xblab0/vm3
snapshot=$(</run/lab/snapshot)
equal "$(digest dom0b /dev/xblab0/vm1)" "$snapshot" "the standby of vm1, as against its snapshot,"
equal "$(digest dom0b /dev/xblab0/copy1)" "$snapshot" "the other standby of vm1"
[ "$(digest dom0a /dev/xblab0/vm1)" != "$snapshot" ] || fail "nothing was written to vm1 meanwhile"
onb e2fsck -fn /dev/xblab0/vm1 # row "a mix of old and new"
logged dom0a 'dom0b:/dev/xblab0/vm1: [1-4]?[0-9]{5,6} bytes changed, ' # and not all 8 MiB
rm /usr/local/sbin/xb-snap
nothing_left

echo "--- DomUs by name, and --verify"
: >/run/syslog
status 3 backup dom0a --verify web3 web1 web9
equal "$(sed 's/ is not running.*//; s/; .*//' mail)" "### ERROR 78: no conf file for DomU web9
## SKIP: DomU web3
# 1 DomU, 1 disk, 2 Dom0s: 2 copied, 0 failed" "cron's mail"
logged dom0a 'dom0b:/dev/xblab0/vm1: verified, blocks 2048 changed 0 bytes 0$'
! grep -q web2 /run/syslog || fail "web2 was not asked for"

echo "--- --dry-run tells and does nothing, but that the lock names who had it last"
listing() { find /run /etc/xen-backup.d /var/lib/xen-backup -type f ! -path /run/syslog ! -path /run/xen-backup.lock ! -path "/run/lab/*" -exec sha256sum {} + 2>/dev/null || true; ls -l /dev/mapper; }
before=$(listing; onb "$(declare -f listing); listing")
status 3 backup dom0a --dry-run
grep -q '^### would sync web1 from dom0a to 10.77.0.2: /dev/xblab0/vm1 to /dev/xblab0/copy1$' mail
grep -q '^## SKIP: DomU web3' mail
grep -q '^### ERROR 69: DomU web2: remote Dom0 dom0c' mail
equal "$(listing; onb "$(declare -f listing); listing")" "$before" "what there is after --dry-run"
