#!/bin/sh
# Fetches the ClickHouse engine library of the pinned version with npm, checks
# it and puts it where the server and the tests look for it:
#
#   ${XDG_CACHE_HOME:-~/.cache}/lockstep/engine/<version>/libchdb.so
#
# It is silent and quick when the library is there: it got its name only after
# its digest was checked. About 170 MB are downloaded and 560 MB kept.
set -eu

package='@chdb/lib-linux-x64-gnu'
version='26.5.3' # as in adapters/chdb/library.go
tarball_sha256='b874e449710950da3abd7e20376f7bb3387d9e03adcc7082f022be18dfdf316a'
library_sha256='4330da79405733f7572f27c1442f46c03a08301f00859dce0368645731b1e1dc'

fail() {
	printf 'fetch the ClickHouse engine: %s\n' "$1" >&2
	exit 1
}

if [ -z "${XDG_CACHE_HOME:-}" ] && [ -z "${HOME:-}" ]; then
	fail 'neither XDG_CACHE_HOME nor HOME is set, so there is no cache folder'
fi
cache="${XDG_CACHE_HOME:-${HOME:-}/.cache}/lockstep/engine/$version"
if [ -f "$cache/libchdb.so" ]; then
	exit 0
fi

if [ "$(uname -s)/$(uname -m)" != 'Linux/x86_64' ]; then
	fail "it exists for Linux on x86_64 only, this is $(uname -s) on $(uname -m); use a ClickHouse server with --clickhouse <dsn>"
fi
for tool in npm tar sha256sum; do
	command -v "$tool" >/dev/null || fail "$tool is missing; install it (npm comes with Node.js) and run this again"
done

mkdir -p "$cache" || fail "cannot create $cache"
temp=$(mktemp -d "$cache/fetch.XXXXXX") || fail "cannot write in $cache"
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' HUP INT TERM

# check FILE DIGEST WHAT
check() {
	got=$(sha256sum "$1" | cut -d ' ' -f 1)
	if [ "$got" != "$2" ]; then
		fail "the $3 has the SHA-256 $got and should have $2; it was damaged or changed on its way: nothing was installed"
	fi
}

printf 'fetching the ClickHouse engine %s (170 MB)\n' "$version" >&2
(cd "$temp" && npm pack --silent "$package@$version" >/dev/null) ||
	fail "npm could not fetch $package@$version; look at its message above, and at npm's registry and proxy settings"
set -- "$temp"/*.tgz
[ -f "$1" ] || fail "npm left no package in $temp"
check "$1" "$tarball_sha256" package
tar -xmzf "$1" -C "$temp" package/libchdb.so || fail "cannot unpack the package in $temp; 750 MB must be free there"
check "$temp/package/libchdb.so" "$library_sha256" library
chmod 0644 "$temp/package/libchdb.so"
sync "$temp/package/libchdb.so" 2>/dev/null || sync
mv "$temp/package/libchdb.so" "$cache/libchdb.so"
