# shellcheck shell=bash disable=SC2154 # $dir
# pair.sh - two Dom0s, dom0a and dom0b, that are namespaces of this machine
#
# For bash scripts, of root, that source it. A Dom0 is a set of namespaces (mount,
# network, process, host name) with its own /etc, /root, /run, /usr/local/sbin,
# /var/lib, /var/log, /var/cache, and /srv, an XFS with reflinks. Root logs in there
# with a plain bash: no start-up file of this machine can print a word or slow it
# down. An sshd is all that always runs. What they mount vanishes with them, and all
# files are below $dir, which the script sets, with $dir/bin for /usr/local/sbin.
# The script also has die WORDS.

declare -A host=() # the outermost process of each Dom0

# on DOM0 COMMAND... runs a command there, with nothing of this shell's environment.
on() {
	nsenter --target "$(<"$dir/$1.pid")" --mount --net --uts --pid -- env -i HOME=/root LC_ALL=C \
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${@:2}"
}

# make_keys makes those with which the Dom0s know each other.
make_keys() {
	local key
	for key in key host_key; do ssh-keygen -q -t ed25519 -N '' -C pair -f "$dir/$key"; done
}

# make_host makes the directories of a Dom0, which outlive its power cuts.
make_host() { # DOM0 SIZE: of /srv
	local h=$dir/$1
	local GLOBIGNORE='/etc/alternatives:/etc/ssl:/etc/systemd:/etc/rc?.d:/etc/apt:/etc/X11:/etc/fonts:/etc/xml:/etc/java*'
	mkdir -p "$h"/{root/.ssh,srv,lib,log,cache,sbin,etc/alternatives}
	chmod 700 "$h/root" "$h/root/.ssh"
	cp -a /etc/* "$h/etc" # without what nobody reads here, which is most of it; power_on adds the alternatives
	rm -f "$h"/etc/{bash.bashrc,profile,environment,ssh/sshrc,ssh/ssh_config}
	# root's shell; and in shadow no locked password, with which sshd would not let root in
	sed -i -e 's|^root:[^:]*:0:0:.*|root:x:0:0:root:/root:/bin/bash|' -e '/:0:0:/!s/^root:[^:]*:/root:*:/' "$h"/etc/{passwd,shadow}
	cp "$dir"/bin/* "$h/sbin"
	printf '127.0.0.1 localhost\n192.0.2.1 dom0a\n192.0.2.2 dom0b\n' >"$h/etc/hosts"
	cp "$dir/key" "$h/root/.ssh/id_ed25519"
	cp "$dir/key.pub" "$h/root/.ssh/authorized_keys"
	echo "dom0a,dom0b $(<"$dir/host_key.pub")" >"$h/root/.ssh/known_hosts"
	# the default key exchange, which withstands quantum computers, takes 0.15 s of CPU time more for each login
	printf '%s\n' "HostKey $dir/host_key" 'PermitRootLogin prohibit-password' 'PasswordAuthentication no' \
		'PidFile none' 'KexAlgorithms curve25519-sha256' >"$h/etc/ssh/pair"
	mkdir -p "$h/etc/xen-backup.d" "$h/etc/libvirt"
	printf '%s\n' 'DOMU=domu1' 'DOM0S="dom0a dom0b"' >"$h/etc/xen-backup.d/domu1.conf"
	mkfs.xfs -q -m reflink=1 "-dfile,name=$h/xfs,size=$2"
	# what it has mounted, for one mount(8): there may be many Dom0s, and processes are dear
	cat >"$h/mounts" <<-END
		/etc/alternatives $h/etc/alternatives none bind
		$h/etc /etc none rbind
		$h/root /root none rbind
		$h/lib /var/lib none bind
		$h/log /var/log none bind
		$h/cache /var/cache none bind
		$h/sbin /usr/local/sbin none bind
		$1 /run tmpfs defaults
		$h/xfs /srv xfs loop
	END
}

# power_on starts a Dom0: a process in namespaces of its own whose end ends all.
power_on() { # DOM0
	: >"$dir/$1.pid"
	# shellcheck disable=SC2016 # for the inner shell
	setpriv --pdeathsig KILL unshare --mount --net --uts --pid --fork --kill-child bash -ec '
		read -r pid _ </proc/self/stat # as it is seen from outside
		mount -t proc proc /proc
		hostname "$2"
		mount --all --fstab "$1/$2/mounts"
		mkdir -m 755 /run/sshd
		ip link set lo up
		echo "$pid" >"$1/$2.pid"
		/usr/sbin/sshd -D -e -f /etc/ssh/pair &
		wait' - "$dir" "$1" >"$dir/$1.log" 2>&1 </dev/null &
	host[$1]=$!
	await "$1" test -s "$dir/$1.pid"
}

# power_off ends what is left of both.
power_off() {
	kill -9 "${host[@]}" 2>/dev/null || :
	wait 2>/dev/null
}

# await DOM0 CONDITION...: until it holds
await() {
	for _ in {1..6000}; do
		"${@:2}" 2>/dev/null && return
		kill -0 "${host[$1]}" 2>/dev/null || break
		sleep 0.1
	done
	die "$1 does not start: $(tail -n 3 "$dir/$1.log")"
}

# address gives a Dom0 its address, and switches its end of a cable on.
address() { # DOM0 ADDRESS
	printf '%s\n' "address replace $2/32 dev lo" "address add $2/24 dev veth0" 'link set veth0 up' | on "$1" ip -batch -
}

# cable joins the two Dom0s. A host whose neighbour dies keeps its address, as on a switch,
# though its end of the cable is gone with the other one.
cable() {
	local h
	ip link add veth0 netns "$(<"$dir/dom0a.pid")" type veth peer name veth0 netns "$(<"$dir/dom0b.pid")"
	address dom0a 192.0.2.1
	address dom0b 192.0.2.2
	for h in dom0a dom0b; do await $h answers $h; done
}

# answers DOM0: its sshd listens.
answers() {
	on "$1" grep -q ':0016 0*:0000 0A ' /proc/net/tcp
}
