#!/bin/bash
# lab: campaign
# lab: udev
# A key behind xb-gate copies onto the logical volumes that gate.conf gives, and creates the one that it may create. No other
# is read, written to or made, by whatever name: they are told by what device-mapper says of what is open.
# shellcheck disable=SC2016 # words for dom0b
for lv in a b guest; do mklv dom0b xblab0/$lv 8M; done
for lv in new no; do made dom0b xblab0/$lv; done
for lv in a b guest; do fill dom0b /dev/xblab0/$lv; done
head -c 8M /dev/urandom >/run/source
ssh-keygen -q -t ed25519 -N '' -f /run/gated
onb "echo 'restrict,command=\"/usr/local/bin/xb-gate dom0a\" $(cat /run/gated.pub)' >>/root/.ssh/authorized_keys
	mkdir -p /etc/xen-backup; cat >/etc/xen-backup/gate.conf" <<'X'
dom0a web1/xvda /dev/xblab0/a
dom0a web1/xvdb /dev/mapper/xblab0-b
dom0a web1/xvdc /dev/xblab0/new create-lv
dom0a web1/xvdd /dev/xblab0/no
dom0a web1/xvde /dev/xblab0/alike
X
gated() { ssh -F none -i /run/gated -o IdentitiesOnly=yes -o BatchMode=yes dom0b "$@"; }
send() { # DISK TARGET [OPTION...]
	local statuses
	gated xb-sig --missing-ok "$2" </dev/null | xb-delta /run/source | gated xb-patch --auto --peer dom0a --disk "$1" "${@:3}" "$2" ||
		statuses=("${PIPESTATUS[@]}")
	return $((${statuses[2]:-0}))
}
onb 'sha256sum </dev/xblab0/guest >/run/guest'

echo "--- what is allowed"
send web1/xvda /dev/xblab0/a
onb 'cmp -n 8388608 - /dev/xblab0/a' </run/source
send web1/xvdb /dev/xblab0/b # given by its other name
onb 'cmp -n 8388608 - /dev/xblab0/b' </run/source
send web1/xvda /dev/mapper/xblab0-a
equal "$(gated xb-patch --prepare --peer dom0a --disk web1/xvdc --size 8388608 --create-lv xblab0 /dev/xblab0/new | cut -d' ' -f1-2)" \
	"full reason=first-copy" "what a volume that is to be created can take"
send web1/xvdc /dev/xblab0/new --create-lv xblab0
onb 'cmp -n 8388608 - /dev/xblab0/new' </run/source

echo "--- what is not"
onb 'dmsetup create xblab0-alike --table "$(dmsetup table xblab0-guest)"
	ln -s /dev/xblab0/guest /run/link
	cp -a "$(readlink -f /dev/xblab0/guest)" /run/node
	lvcreate -q -y -s -L 4M -n snap xblab0/a' >/dev/null
made dom0b xblab0/snap
for target in /dev/xblab0/guest /run/node /dev/mapper/xblab0-alike /dev/mapper/xblab0-a-real /dev/mapper/xblab0-guest \
	/run/link "$(onb readlink -f /dev/xblab0/guest)" /dev/mapper/xblab0-snap-cow /dev/xblab0/snap; do
	status 77 gated xb-sig "$target" </dev/null
	for form in xvda xvde 'xvda --first-copy in-place' 'xvde --first-copy in-place'; do
		read -r disk option <<<"$form"
		status 77 send "web1/$disk" "$target" ${option:+$option}
	done
done
status 77 send web1/xvdb /dev/xblab0/a
status 77 send web1/xvdd /dev/xblab0/no --create-lv xblab0
status 77 gated xb-patch --prepare --peer dom0a --disk web1/xvdd --size 8388608 --create-lv xblab0 /dev/xblab0/no
status 77 send web1/xvdc /dev/xblab0/other --create-lv xblab0
onb '[ "$(lvs --noheadings -o name xblab0 | xargs)" = "a b guest new snap" ]' || fail "a volume was made: $(onb lvs xblab0)"
onb 'sha256sum </dev/xblab0/guest | cmp - /run/guest' || fail "another's disk was written to"
onb 'dmsetup remove xblab0-alike; lvremove -q -y xblab0/snap >/dev/null
	! grep -l "xblab0/guest\|/run/" /var/lib/xen-backup/*.json /var/lib/xen-backup/*.seen' || fail "something is remembered of what was refused"
onb 'grep -c "dom0a: refused: " /run/syslog; grep -c "dom0a: accepted: " /run/syslog'

echo "--- the whole of xen-backup.sh"
mklv dom0a xblab0/web 8M
made dom0b xblab0/web
fill dom0a /dev/xblab0/web
testdomain dom0a web2 /dev/xblab0/web
conf dom0a 1 DOMU=web2 'DOM0S="dom0a dom0b"' CREATE_LV=xblab0
trap 'rm -f /root/.ssh/config' EXIT # what onb needs is open already
printf '%s\n' 'Host dom0b' 'IdentityFile /run/gated' 'IdentitiesOnly yes' >/root/.ssh/config
status 3 backup dom0a
logged dom0a '^local3.err ### .*xb-locate: the DomU web2 is not for dom0a: no line of /etc/xen-backup/gate.conf on this host allows it'
xen-backup.sh --gate-conf dom0b >conf
equal "$(cat conf)" "dom0a web2/xvda /dev/xblab0/web create-lv" "what gate.conf needs"
onb 'cat >/etc/xen-backup/gate.conf' <conf
backup dom0a
same /dev/xblab0/web
fill dom0a /dev/xblab0/web
backup dom0a --verify
same /dev/xblab0/web
nothing_left
