# Unpacks the Rust compiler of version $1 from Debian's packages into the folder $2, and installs nothing.
# Ends with 3 if this Debian has none.
set -eu
wanted=$1
folder=$2

find_version() {
    apt-cache madison rustc-web rustc 2>/dev/null |
        awk -F' *[|] *' -v wanted="$wanted." '{ gsub(/ /, "", $1) } index($2, wanted) == 1 { print $1, $2; exit }'
}
found=$(find_version)
if [ -z "$found" ]; then
    apt-get update --quiet=2 || true
    found=$(find_version)
fi
[ -n "$found" ] || exit 3
compiler=${found% *}
version=${found#* }

case $compiler in
rustc-web) library=libstd-rust-web ;;
*) library=libstd-rust ;;
esac
# Its shared LLVM is a package of its own, whose name has the version in it. Some versions bring it along.
llvm=$(apt-cache show "$library-$wanted=$version" | grep -o 'libllvm[0-9]*' | head -n 1)

rm -rf "$folder" "$folder.part"
mkdir -p "$folder.part/packages"
cd "$folder.part/packages"
# As root it warns that it could not drop its rights to write here. That is so, and harmless.
apt-get download --quiet=2 "$compiler=$version" "$library-dev=$version" "$library-$wanted=$version" $llvm 2>/dev/null
for package in *.deb; do
    dpkg-deb --extract "$package" ..
done
cd ..
rm -rf packages
libraries=$(find usr/lib '(' -name 'librustc_driver-*.so' -o -name 'libLLVM*.so*' ')' -exec dirname {} + | sort -u)
{
    echo '#!/bin/sh'
    echo 'here=$(dirname "$(readlink -f "$0")")'
    printf 'LD_LIBRARY_PATH="'
    for library in $libraries; do printf '$here/%s:' "$library"; done
    # An empty part would mean the current folder.
    echo '${LD_LIBRARY_PATH:-$here/usr/lib}"'
    echo 'export LD_LIBRARY_PATH'
    echo 'exec "$here/usr/bin/rustc" --sysroot "$here/usr" "$@"'
} >rustc
chmod 755 rustc
./rustc --version
cd /
mv "$folder.part" "$folder"
