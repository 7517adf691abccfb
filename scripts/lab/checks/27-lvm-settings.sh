#!/bin/bash
# lab: campaign
# Whatever lvm.conf says of LVM's reports and messages, xb-snap finds, shows and removes what it took: in a campaign every
# setting in turn has another value than LVM's own, else those that no run with many at once can have.
vg=xblab0
mklv dom0a $vg/vm1 8M
thinpool dom0a $vg/pool 40M
mkthin dom0a $vg/pool t1 8M
mkdir -p lvm/profile race
export LVM_SYSTEM_DIR=$PWD/lvm
# set_lvm SECTIONS: lvm.conf is the lab's and this
set_lvm() { { cat /etc/lvm/lvmlocal.conf; echo "$*"; } >lvm/lvm.conf; }
set_lvm

# other NAME VALUE: another value of this setting, as hostile as LVM takes it.
other() {
	case $1=$2 in
	compact_output_cols=*) echo '"lv_tags,origin,lv_health_status,vg_free"' ;;
	*_sort* | *_cols*) echo '"nothing"' ;;
	time_format=*) echo '"%c"' ;;
	separator=* | list_item_separator=*) echo '";"' ;;
	output_format=*) echo '"json"' ;;
	units=*) echo '"h"' ;;
	prefix=*) echo '"{}: "' ;;
	*=0) echo 1 ;;
	*=1) echo 0 ;;
	*) fail "no other value is known of $1=$2" ;;
	esac
}

shown() { xb-snap list --json | jq -c 'map({origin, kind, size, valid, owner_dead, created: (.created > "2000")}) | sort_by(.origin)'; }

# cycle WHAT: two snapshots are taken and shown, one is removed by name and the other when its owner is dead.
cycle() {
	local owner snaps
	sleep 1000 &
	owner=$!
	xb-snap create --owner $owner /dev/$vg/vm1 /dev/$vg/t1 >snaps || fail "create with $1"
	mapfile -t snaps <snaps
	equal "$(shown)" "$want" "list with $1"
	xb-snap remove "${snaps[0]}" || fail "remove with $1"
	kill $owner
	wait $owner || true
	equal "$(xb-snap prune)" "${snaps[1]}" "prune with $1"
	equal "$(xb-snap list)" "" "list at the end with $1"
}

want='[{"origin":"/dev/'$vg'/t1","kind":"thin","size":8388608,"valid":true,"owner_dead":false,"created":true},{"origin":"/dev/'$vg'/vm1","kind":"thick","size":12582912,"valid":true,"owner_dead":false,"created":true}]'
cycle "LVM's own settings"

for section in report log global; do
	lvmconfig --typeconfig full $section | sed -n "s/^\t\([a-z_]*\)=/$section \1 /p"
done >all
n=$(grep -c ^report all)
[ "$n" -ge 40 ] || fail "lvmconfig tells of $n settings of report"
tried=0
while read -r section name value; do
	case $section/$name in
	report/*) ;;
	# those that say how LVM prints, not what it does
	log/report_command_log | log/verbose | log/silent | log/prefix | log/indent | log/command_names) ;;
	global/units | global/suffix | global/si_unit_consistency) ;;
	*) continue ;;
	esac
	case $name in
	output_format | compact_output_cols | binary_values_as_numeric | separator | mark_hidden_devices | lvs_cols | silent | command_names) ;;
	*) campaign || continue ;;
	esac
	tried=$((tried + 1))
	setting="$name = $(other "$name" "$value")"
	echo "$setting"
	set_lvm "$section { $setting }"
	equal "$(lvmconfig "$section/$name" | tr -d ' "')" "$(tr -d ' "' <<<"$setting")" "what LVM has read"
	case $name in
	# xb-snap asks for columns of its own, and not for physical volumes: nothing but a report can fail for those
	devtypes_* | pvs_* | pvsegs_* | [lv]*_cols* | segs_cols* | *_full) equal "$(xb-snap list)" "" "list with $setting" ;;
	*) cycle "$setting" ;;
	esac
done <all
[ $tried -ge 8 ] || fail "only $tried settings were tried"

echo "--- many at once, and a profile"
set_lvm 'report { prefixes=1 columns_as_rows=1 list_item_separator=";" compact_output=1 buffered=0 headings=0 time_format="%c" }' \
	'log { report_command_log=1 verbose=2 } global { units="h" }'
cycle "many at once"
set_lvm
echo 'report { list_item_separator=";" compact_output=1 time_format="%c" }' >lvm/profile/xblab.profile
LVM_COMMAND_PROFILE=xblab cycle "a profile"

echo "--- an lvremove that finds nothing to remove has not removed it"
snap=$(xb-snap create --owner none /dev/$vg/vm1)
cat >race/lvremove <<Y
#!/bin/sh
lvchange -q --deltag xen-backup $snap && lvchange -q -an $vg/vm1 && exec /sbin/lvremove "\$@"
Y
chmod 755 race/lvremove
refused 74 "no longer has the tag" env PATH="$PWD/race:$PATH" xb-snap remove "$snap"
[ ! -e "$snap" ] || fail "the snapshot still has a device"
lvs "$vg/${snap##*/}"
lvremove -q -y "$vg/${snap##*/}"
