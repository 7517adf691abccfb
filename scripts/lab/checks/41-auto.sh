#!/bin/bash
# lab: campaign
# --prepare and --auto create a volume: on bytes that were there before, cut, killed and held.
onb 'lvcreate -q -y -L 24M -n old xblab0 >/dev/null; head -c 24M /dev/zero | tr "\0" x | dd of=/dev/xblab0/old bs=1M iflag=fullblock oflag=direct status=none
	mkfs.ext4 -q -F /dev/xblab0/old; sync; lvremove -q -y xblab0/old'
head -c 3M /dev/urandom >/run/source
truncate -s 12M /run/source # zeroes where the volume holds something else
head -c 1M /dev/urandom | dd of=/run/source bs=1M seek=9 conv=notrunc status=none
cat >/run/both <<'X'
xb-sig --missing-ok "$1" | xb-delta /run/source | xb-patch --auto --peer dom0a --disk web1/xvda --create-lv xblab0 "${@:2}" "$1"
exit $((${PIPESTATUS[0]} | ${PIPESTATUS[1]} | ${PIPESTATUS[2]}))
X
for f in source both; do on dom0b "cat >/run/$f" </run/$f; done
for name in old new cut set late; do made dom0b xblab0/$name; done
prepare() { onb "xb-patch --prepare --peer dom0a --disk web1/xvda --size $1 --create-lv xblab0 $2"; }
phase() { onb "xb-patch --state $1"; }

echo "--- asked beforehand"
[ "$(prepare 12M /dev/xblab0/new)" = "full reason=first-copy phase=none takes=1 guests=no points=yes" ] || fail "--prepare"
status 73 prepare 1T /dev/xblab0/new
status 73 onb 'xb-patch --prepare --peer dom0a --disk web1/xvda --size 12M --create-lv nosuch /dev/nosuch/new'
status 78 prepare 12M /dev/nosuch/new
[ ! -e /dev/xblab0/new ] || fail "it was made here"
onb '! lvs xblab0/new 2>/dev/null' || fail "--prepare has made a volume"

echo "--- what brings nothing leaves nothing"
status 65 onb 'head -c 40 /run/source | xb-patch --auto --peer dom0a --disk web1/xvda --create-lv xblab0 /dev/xblab0/new'
onb '! lvs xblab0/new 2>/dev/null' || fail "a volume is left"

echo "--- on what was there before"
onb 'bash /run/both /dev/xblab0/new' || fail "the copy failed"
onb 'cmp -n 12582912 /run/source /dev/xblab0/new' || fail "it is not the source: old bytes are left"
phase /dev/xblab0/new | grep -q '"phase":"clean"' || fail "it is not clean"
onb '[ ! -e /var/lib/xen-backup/spool ]' || fail "it was spooled"

echo "--- cut"
onb 'xb-sig --missing-ok /dev/mapper/xblab0-cut | xb-delta /run/source | head -c 2500000 |
	xb-patch --auto --peer dom0a --disk web1/xvdb --create-lv xblab0 /dev/mapper/xblab0-cut' && fail "a cut stream is no error"
phase /dev/xblab0/cut | grep '"phase":"incomplete"' | grep -q '"created":true' || fail "it is not incomplete and created"
onb 'sed s/xvda/xvdb/ /run/both >/run/second; bash /run/second /dev/mapper/xblab0-cut' || fail "it is not healed"
onb 'cmp -n 12582912 /run/source /dev/xblab0/cut' || fail "the healed one is not the source"

echo "--- of a set"
onb 'sed s/xvda/xvdc/ /run/both >/run/third; bash /run/third /dev/xblab0/set --hold abcdefghijklmnopqrstuvwxyz --taken 2026-11-26T23:47:28Z' || fail "held"
onb 'cmp -n 12582912 /run/source /dev/xblab0/set' || fail "the one of a set is not the source"
onb 'xb-patch --commit abcdefghijklmnopqrstuvwxyz --peer dom0a /dev/xblab0/set' || fail "its commit"

echo "--- a volume that is not active"
onb 'lvchange -an xblab0/new'
status 66 prepare 12M /dev/xblab0/new
status 73 onb 'bash -c "xb-sig --missing-ok /dev/xblab0/new | xb-delta /run/source >/run/delta; xb-patch --auto --peer dom0a --disk web1/xvda --create-lv xblab0 /dev/xblab0/new </run/delta"'
onb 'lvchange -ay xblab0/new; cmp -n 12582912 /run/source /dev/xblab0/new' || fail "it was changed"

echo "--- one that appears meanwhile"
onb 'lvcreate -q -y -L 12M -n late xblab0 >/dev/null; head -c 12M /dev/urandom | dd of=/dev/xblab0/late bs=1M iflag=fullblock oflag=direct status=none; sha256sum </dev/xblab0/late >/run/sum'
status 80 onb 'xb-patch --auto --peer dom0a --disk web1/xvdd /dev/xblab0/late </run/delta'
onb 'sha256sum </dev/xblab0/late | cmp - /run/sum' || fail "it was overwritten unseen"

echo "--- ended when it was made"
for name in killed ended; do made dom0b xblab0/$name; done
# shellcheck disable=SC2016 # for the stand-in
onb 'cat >/usr/local/sbin/lvcreate <<X
#!/bin/bash
/usr/sbin/lvcreate "\$@"
kill -\$(cat /run/signal) \$PPID
X
chmod 755 /usr/local/sbin/lvcreate; sed s/xvda/xvde/ /run/both >/run/fifth; echo KILL >/run/signal'
onb 'bash /run/fifth /dev/xblab0/killed' && fail "killed, and no error"
onb 'lvs xblab0/killed >/dev/null' || fail "there is no volume: nothing was killed in time"
onb 'echo TERM >/run/signal; sed s/xvda/xvdf/ /run/both >/run/sixth; bash /run/sixth /dev/xblab0/ended' && fail "ended, and no error"
onb '! lvs xblab0/ended 2>/dev/null' || fail "a run that was told to end leaves a volume"
onb 'rm /usr/local/sbin/lvcreate'
for job in fifth:killed sixth:ended; do
	onb "bash /run/${job%:*} /dev/xblab0/${job#*:}" || fail "${job#*:}: the next run does not heal it"
	onb "cmp -n 12582912 /run/source /dev/xblab0/${job#*:}" || fail "${job#*:} is not the source"
	phase "/dev/xblab0/${job#*:}" | grep -q '"phase":"clean"' || fail "${job#*:} is not clean"
done
