# Installs the Debian packages that are named, without starting a service. Run as root.
set -eu

# Debian starts a server as soon as it is installed, unless this file says no. A test starts its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
install() {
    apt-get install --yes --quiet=2 --no-install-recommends "$@"
}
# The lists may be missing, or older than what the mirror has.
install "$@" || { apt-get update --quiet=2 && install "$@"; }
