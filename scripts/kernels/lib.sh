# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Debian's kernels, and an initramfs to boot them with in qemu. Sourced by scripts/kernels/run and scripts/icount/run,
# from the repository's root. $self is the caller's name in messages, $root the guest's root directory.

: "${self:?}" "${root:?}"
images=$PWD/build/kernels

# Debian's package that depends on the newest kernel image of a series.
declare -A meta=([6.1]=linux-image-cloud-amd64 [6.12]=linux-image-6.12-cloud-amd64)

die() {
	echo "$self: $*" >&2
	exit 1
}

# newest SERIES: prints the name of its newest image.
newest() {
	apt-cache show --no-all-versions "${meta[$1]}" 2>/dev/null |
		sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' || true
}

# fetch SERIES: puts kernel and modules of the newest image of the series into $images/SERIES.
fetch() {
	local dir=$images/$1 image
	image=$(newest "$1")
	[[ $image && -e $dir/$image ]] && return
	apt-get -qq update
	image=$(newest "$1")
	[[ $image ]] || die "apt has no ${meta[$1]}: kernel $1 needs the sources of Debian 12 and its security updates"
	echo "$self: fetching $image"
	rm -rf "$dir" && mkdir -p "$dir"
	(cd "$dir" && apt-get download -qq -o APT::Sandbox::User=root "$image" && dpkg-deb -x ./*.deb . && rm ./*.deb)

	# Of the modules only those for networks, and what those need: the initramfs stays small.
	local modules=("$dir"/lib/modules/*/kernel)
	rm -rf "${modules[0]}"/{fs,sound,virt}
	find "${modules[0]}/drivers" -mindepth 1 -maxdepth 1 ! -name net -exec rm -r {} +
	find "${modules[0]}" -name '*.xz' -exec busybox unxz {} +
	busybox depmod -b "$dir" "$(basename "$(dirname "${modules[0]}")")"
	touch "$dir/$image"
}

# copy_command NAME: copies a command and its shared libraries into the guest's root directory.
copy_command() {
	local path file
	path=$(PATH=$PATH:/usr/sbin:/sbin type -P "$1") || die "needs the command $1: run scripts/setup test kernels"
	for file in "$path" $(ldd "$path" 2>/dev/null | grep -o '/[^ ]*'); do
		# The root directory has no links beside /bin and the like, so that both ways of writing a path work.
		install -D "$(realpath "$file")" "$root/$(realpath "$(dirname "$file")")/$(basename "$file")"
	done
}

# start_root INIT COMMAND...: makes the guest's root directory anew, with busybox and the commands, all but the kernel's
# modules. INIT becomes its first process.
start_root() {
	local dir command
	rm -rf "$root" && mkdir -p "$root"/{dev,proc,sys,tmp,run,root,etc,var/log,usr/{bin,sbin,lib,lib64}}
	for dir in bin sbin lib lib64; do
		ln -s "usr/$dir" "$root/$dir"
	done
	install -m 755 "$1" "$root/init"
	cp /etc/passwd /etc/group "$root/etc/"
	install -D "$(type -P busybox)" "$root/usr/bin/busybox"
	ln -s /usr/bin/busybox "$root/usr/sbin/modprobe"
	for command in "${@:2}"; do
		copy_command "$command"
	done
}

# pack SERIES: makes $root.initrd of the root directory and the kernel's modules.
pack() {
	rm -rf "$root/usr/lib/modules"
	cp -al "$images/$1/lib/modules" "$root/usr/lib/"
	(cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) >"$root.initrd"
}
