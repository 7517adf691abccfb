# shellcheck shell=bash disable=SC2034 # some are for the caller
# The kernel and the root trees of machines in user-mode Linux, kept in a cache: sourced by scripts/lab/run, which describes
# the environment, and by scripts/packaging/units and readme. Its caller has a function die.
release=${XB_LAB_KERNEL:-forky}
cache=${XB_LAB_CACHE:-/var/cache/xen-backup-lab}
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
sources=${XB_LAB_SOURCES:-/etc/apt/sources.list.d/debian.sources}
[ -s "$sources" ] || sources=/etc/apt/sources.list

install_bootstrap() {
	local need=()
	command -v mmdebstrap >/dev/null || need+=(mmdebstrap)
	command -v gpg >/dev/null || need+=(gpg)
	if [ ${#need[@]} -gt 0 ]; then
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
	fi
}

# bootstrap FOLDER RELEASE SOURCES OPTION...: what mmdebstrap makes of them. The folder is made below a temporary name and
# renamed, so a cut build is never taken for a whole one and two runs at once don't disturb each other.
bootstrap() {
	local folder=$1 suite=$2 from=$3 tmp status=0
	shift 3
	[ ! -d "$folder" ] || return 0
	install_bootstrap
	mkdir -p "$cache"
	tmp=$(mktemp -d "$cache/tmp.XXXXXX")
	TMPDIR=$cache mmdebstrap --quiet --mode=root --format=directory \
		--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' "$@" "$suite" "$tmp/root" "$from" >/dev/null || status=$?
	if [ $status = 0 ]; then
		chmod 755 "$tmp/root"
		mv -T "$tmp/root" "$folder" 2>/dev/null || true # another run may have been quicker: its folder is as good
	fi
	rm -rf "$tmp"
	return $status
}

# build_kernel RELEASE: the kernel of that Debian release, its modules and the libraries that it was linked with, as a
# folder for chroot.
build_kernel() {
	local mirror
	kernel=$cache/kernel-$1-$(declare -f build_kernel bootstrap | sha256sum | cut -c1-16)
	mirror=$(sed '/^#/d' "$sources" | grep -oE '[a-z+]+:/[^[:space:]]+' | head -n 1)
	# shellcheck disable=SC2016 # as above
	# A mirror that stands still has old release files: their signatures are good all the same
	bootstrap "$kernel" "$1" "deb $mirror $1 main" --aptopt='Acquire::Check-Valid-Until "false"' --variant=extract \
		--setup-hook='mkdir -p "$1/usr/lib" "$1/usr/lib64"; ln -s usr/lib usr/lib64 "$1"' \
		--include='user-mode-linux libc6 libgcc-s1' &&
		setarch -R chroot "$kernel" /usr/bin/linux.uml --version >/dev/null
}

# build_systemd_tree [PACKAGE...]: a root tree with systemd and these, as a host has it on which ours are to be installed.
build_systemd_tree() {
	local packages=(
		systemd-sysv dbus udev kmod procps iproute2 bash lvm2 dmsetup dmeventd thin-provisioning-tools
		openssh-server openssh-client libvirt-clients bsdutils "$@"
	)
	tree=$cache/units-$({ echo "$suite ${packages[*]}"; declare -f bootstrap; cat scripts/lab/guest/boot; } | sha256sum | cut -c1-16)
	# shellcheck disable=SC2016 # as above
	bootstrap "$tree" "$suite" "$sources" --variant=minbase --dpkgopt='path-exclude=/usr/share/locale/*' --include="${packages[*]}" \
		--customize-hook='mkdir -p "$1/usr/lib/modules" "$1/lab" "$1/oldroot"' \
		--customize-hook='install -m 755 scripts/lab/guest/boot "$1/boot-lab"'
}
