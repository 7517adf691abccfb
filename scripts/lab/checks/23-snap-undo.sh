#!/bin/bash
# lab: campaign
# All or nothing: xb-snap create is killed at many moments, and refuses what LVM refuses.
vg=xblab0
for i in 1 2 3; do mklv dom0a $vg/vm$i 8M; done
thinpool dom0a $vg/pool 40M
mkthin dom0a $vg/pool thin 8M
ours() { lvs --noheadings -o lv_name -S 'lv_tags={xen-backup}'; }

moments=(INT:0.6 TERM:0.9 HUP:1.2)
! campaign || moments+=(TERM:0.3 TERM:1.6 TERM:2.5)
for signal in "${moments[@]}"; do
	delay=${signal#*:}
	signal=${signal%:*}
	got=0
	setsid -w bash -c "trap - INT; exec timeout --foreground -s $signal $delay xb-snap create --owner none /dev/$vg/vm1 /dev/$vg/thin /dev/$vg/vm2 /dev/$vg/vm3" >out 2>words || got=$?
	echo "SIG$signal after $delay s: status $got, $(wc -l <out) paths, words: $(cat words)"
	if [ $got = 0 ]; then
		equal "$(ours | wc -l)" 4 "the number of snapshots"
		mapfile -t snap <out
		xb-snap remove "${snap[@]}"
	fi
	[ -z "$(ours)" ] || fail "left after SIG$signal and $delay s: $(ours)"
	! dmsetup info -c --noheadings -o suspended | grep -i suspended || fail "something stays suspended"
done

echo "--- LVM that looks into the guests' disks is warned of"
mkdir bin lvm
echo 'devices { scan_lvs = 1 }' >lvm/lvm.conf # without the lab's filter, which only lvmconfig can do without
printf '#!/bin/sh\nLVM_SYSTEM_DIR=%s exec %s "$@"\n' "$PWD/lvm" "$(command -v lvmconfig)" >bin/lvmconfig
chmod 755 bin/lvmconfig
PATH=$PWD/bin:$PATH xb-snap create /dev/$vg/vm1 2>words >out
xargs xb-snap remove <out
grep -q 'xb-snap: .*scan_lvs=0' words

echo "--- killed for good: what is left has a dead owner"
xb-snap create /dev/$vg/vm1 /dev/$vg/vm2 /dev/$vg/vm3 >out &
pid=$!
sleep 0.9
kill -KILL $pid || true # it may have ended
wait $pid || true
while pgrep -x lvcreate >/dev/null; do sleep 0.1; done # one that is under way ends by itself
xb-snap list
before=$(ours | wc -l)
equal "$(xb-snap prune | wc -l)" 0 "while the owner, this shell, lives, the number of pruned snapshots"
mapfile -t left < <(xb-snap list | cut -f1)
[ ${#left[@]} = 0 ] || xb-snap remove "${left[@]}"
bash -c "xb-snap create /dev/$vg/vm1; true"
equal "$(xb-snap prune | wc -l)" 1 "after the shell that took it ended, the number of pruned snapshots"
echo "left by SIGKILL: $before"

echo "--- LVM refuses one of them"
cat >lvcreate <<'X'
#!/bin/sh
case "$*" in *vm3) echo "  WARNING: this and that." >&2; echo "  Cannot do that." >&2; exit 5 ;; esac
exec /usr/sbin/lvcreate "$@"
X
chmod 755 lvcreate
refused 73 "^xb-snap: cannot take a snapshot of $vg/vm3: lvcreate: Cannot do that$" \
	env PATH="$PWD:$PATH" xb-snap create /dev/$vg/vm1 /dev/$vg/thin /dev/$vg/vm3
[ -z "$(ours)" ] || fail "left: $(ours)"

echo "--- cron's PATH"
s=$(env -i PATH=/usr/bin:/bin DM_DISABLE_UDEV="${DM_DISABLE_UDEV-}" /lab/bin/xb-snap create --owner none /dev/$vg/vm1)
xb-snap remove "$s"

echo "--- another volume group of the same name, as on a guest's disk: nothing is guessed"
uuid=$(vgs --noheadings -o vg_uuid $vg | tr -d ' ')
s=$(xb-snap create --owner none /dev/$vg/vm1)
truncate -s 64M disk
modprobe loop
loop=$(losetup --find --show disk)
trap 'losetup -d "$loop"; vgchange -q -ay $vg' EXIT
vgchange -q -an $vg
vgcreate -q --config "devices { filter=[\"a|$loop|\", \"r|.*|\"] use_devicesfile=0 }" $vg "$loop"
vgchange -q -ay --select "vg_uuid=$uuid"
refused 78 "two volume groups are called $vg" xb-snap create /dev/$vg/vm1
vgremove -q -y -ff --select "vg_uuid!=$uuid && vg_name=$vg"
losetup -d "$loop"
trap - EXIT
xb-snap remove "$s"
