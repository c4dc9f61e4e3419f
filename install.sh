#!/bin/sh
# Installs knarr, Kubernetes in one executable, and starts it.
#
#   sudo ./install.sh                       from a checkout: builds it first
#   curl -sfL <url> | sudo sh -             a release
#
# Run again it upgrades, or says that nothing changed. It leaves knarr-killall.sh and
# knarr-uninstall.sh in /usr/local/bin.
#
# Settings, all optional, in the environment:
#   INSTALL_KNARR_BIN           an executable to install, instead of building one
#   INSTALL_KNARR_DOWNLOAD_URL  where to fetch one; its SHA-256 is expected at the same URL plus .sha256
#   INSTALL_KNARR_EXEC          arguments, such as "server --tls-san example.org"
#   INSTALL_KNARR_SKIP_START    true: install, but do not start
#   INSTALL_KNARR_WAIT          seconds to wait for the node [300]
#   KNARR_*                     knarr's own settings, kept for the service
set -eu

BIN_DIR=/usr/local/bin
KNARR=$BIN_DIR/knarr
UNIT=/etc/systemd/system/knarr.service
RC_SCRIPT=/etc/init.d/knarr
PID_FILE=/run/knarr.pid
LOG_FILE=/var/log/knarr.log
CHANGED=false

say() { printf '%s\n' "$*"; }

fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# --- what is asked for ------------------------------------------------------------------------------

# Arguments of the service, as one word each in "$@" of whoever calls `with_arguments command…`.
with_arguments() {
    run=$1
    shift
    set -f
    # Words are parted at spaces, as INSTALL_KNARR_EXEC says them.
    # shellcheck disable=SC2086
    set -- ${INSTALL_KNARR_EXEC:-} "$@"
    set +f
    case "${1:-}" in
        '' | -*) set -- server "$@" ;;
        server) ;;
        *) fail "INSTALL_KNARR_EXEC begins with \"$1\": this version runs \"server\"" ;;
    esac
    "$run" "$@"
}

# The value of a flag among the arguments, of its variable, or of the configuration file; else a default.
setting() {
    name=$1 variable=$2 default=$3
    shift 3
    value=
    while [ $# -gt 0 ]; do
        case "$1" in
            "--$name") value=${2:-} ;;
            "--$name="*) value=${1#*=} ;;
        esac
        shift
    done
    [ -n "$value" ] || eval "value=\${$variable:-}"
    if [ -z "$value" ] && [ -r /etc/knarr/config.yaml ]; then
        value=$(sed -n "s/^$name:[[:space:]]*[\"']\{0,1\}\([^\"'#]*[^\"'# ]\).*/\1/p" /etc/knarr/config.yaml | head -n 1)
    fi
    printf '%s' "${value:-$default}"
}

read_settings() {
    DATA_DIR=$(setting data-dir KNARR_DATA_DIR /var/lib/knarr "$@")
    RUN_DIR=$(setting run-dir KNARR_RUN_DIR /run/knarr "$@")
    KUBELET_DIR=$(setting kubelet-dir KNARR_KUBELET_DIR /var/lib/kubelet "$@")
    LOG_DIR=$(setting log-dir KNARR_LOG_DIR /var/log "$@")
    KUBECONFIG_FILE=$(setting write-kubeconfig KNARR_WRITE_KUBECONFIG /etc/knarr/knarr.yaml "$@")
    for folder in "$DATA_DIR" "$RUN_DIR" "$KUBELET_DIR" "$LOG_DIR"; do
        case "$folder" in
            *[!A-Za-z0-9/._-]* | *..*) fail "the folder \"$folder\" has characters that this script does not handle" ;;
            /?*) ;;
            *) fail "the folder \"$folder\" has to be absolute" ;;
        esac
    done
}

check_machine() {
    [ "$(id -u)" = 0 ] || fail "run it as root: sudo ./install.sh"
    [ "$(uname -s)" = Linux ] || fail "knarr runs on Linux"
    [ -z "${KNARR_URL:-}" ] || fail "KNARR_URL is set, but this version does not join other servers yet: unset it"
    if [ -d /run/systemd/system ] && has systemctl; then
        INIT=systemd
    elif [ -d /run/openrc ] && has rc-service; then
        INIT=openrc
    else
        INIT=none
    fi
}

# --- packages ---------------------------------------------------------------------------------------

# The packages whose programs are not there: $1 names iproute2's, $2 conntrack's, $3 the C compiler's.
missing_packages() {
    has containerd || printf 'containerd '
    has runc || printf 'runc '
    has nft || printf 'nftables '
    has ip || printf '%s ' "$1"
    has conntrack || printf '%s ' "$2"
    if [ "$SOURCE" = checkout ]; then
        has cc || has gcc || has clang || printf '%s ' "$3"
    fi
}

install_packages() {
    if has apt-get; then
        manager=apt-get packages=$(missing_packages iproute2 conntrack 'gcc libc6-dev')
    elif has dnf; then
        manager=dnf packages=$(missing_packages iproute conntrack-tools gcc)
    elif has apk; then
        manager=apk packages=$(missing_packages iproute2 conntrack-tools 'gcc musl-dev')
    elif has zypper; then
        manager=zypper packages=$(missing_packages iproute2 conntrack-tools gcc)
    elif has pacman; then
        manager=pacman packages=$(missing_packages iproute2 conntrack-tools gcc)
    else
        manager='' packages=$(missing_packages iproute2 conntrack gcc)
    fi
    [ -n "$packages" ] || return 0
    [ -n "$manager" ] || fail "install these first, this machine has no package manager that is known: $packages"
    say "Installing packages: $packages"
    case "$packages" in *containerd*) new_containerd=true ;; *) new_containerd=false ;; esac
    # shellcheck disable=SC2086
    case "$manager" in
        apt-get)
            quietly apt-get update
            quietly env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
            ;;
        dnf) quietly dnf install -y $packages ;;
        apk) quietly apk add --no-cache $packages ;;
        zypper) quietly zypper --non-interactive install --no-recommends $packages ;;
        pacman) quietly pacman -Sy --noconfirm --needed $packages ;;
    esac
    # knarr runs a containerd of its own: the package's service, which nobody asked for, would idle.
    if $new_containerd && [ "$INIT" = systemd ]; then
        systemctl disable --now containerd.service >/dev/null 2>&1 || true
    fi
}

# Runs a command whose output matters only when it fails.
quietly() {
    output=$(mktemp)
    if "$@" >"$output" 2>&1; then
        rm -f "$output"
    else
        tail -n 20 "$output" >&2
        rm -f "$output"
        fail "$1 failed (see above)"
    fi
}

# --- the executable ---------------------------------------------------------------------------------

find_cargo() {
    for home in "${CARGO_HOME:-/nonexistent}" "$(user_home)/.cargo" "${HOME:-/root}/.cargo" /root/.cargo; do
        [ ! -x "$home/bin/cargo" ] || PATH=$home/bin:$PATH
    done
    export PATH
    { has cargo && has rustc; } ||
        fail "building knarr needs Rust: install it from https://rustup.rs, or give an executable with INSTALL_KNARR_BIN"
}

user_home() {
    [ -z "${SUDO_USER:-}" ] || sed -n "s/^$SUDO_USER:\([^:]*:\)\{4\}\([^:]*\):.*/\2/p" /etc/passwd
}

# Builds as the person who called sudo, so that root owns nothing in the checkout.
build() {
    say "Building knarr (a few minutes the first time)"
    owner=$(stat -c %U "$CHECKOUT/Cargo.toml")
    if [ -n "${SUDO_USER:-}" ] && [ "$owner" = "$SUDO_USER" ] && has sudo; then
        sudo -u "$SUDO_USER" env PATH="$PATH" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CHECKOUT/target}" \
            cargo build --release --locked --manifest-path "$CHECKOUT/Cargo.toml" || fail "the build failed (see above)"
    else
        cargo build --release --locked --manifest-path "$CHECKOUT/Cargo.toml" || fail "the build failed (see above)"
    fi
    NEW=${CARGO_TARGET_DIR:-$CHECKOUT/target}/release/knarr
}

download() {
    FETCHED=$(mktemp)
    NEW=$FETCHED
    say "Fetching $INSTALL_KNARR_DOWNLOAD_URL"
    fetch "$INSTALL_KNARR_DOWNLOAD_URL" "$NEW"
    fetch "$INSTALL_KNARR_DOWNLOAD_URL.sha256" "$NEW.sha256"
    wanted=$(cut -d' ' -f1 "$NEW.sha256")
    found=$(sha256sum "$NEW" | cut -d' ' -f1)
    rm -f "$NEW.sha256"
    [ "$wanted" = "$found" ] || fail "what was fetched has another SHA-256 than $INSTALL_KNARR_DOWNLOAD_URL.sha256 says"
    chmod 755 "$NEW"
}

fetch() {
    if has curl; then
        curl -sfL -o "$2" "$1" || fail "cannot fetch $1"
    elif has wget; then
        wget -qO "$2" "$1" || fail "cannot fetch $1"
    else
        fail "fetching needs curl or wget"
    fi
}

# Where the executable comes from.
choose_source() {
    case "$0" in
        */*) CHECKOUT=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) ;;
        *) CHECKOUT=$(pwd) ;;
    esac
    if [ -n "${INSTALL_KNARR_BIN:-}" ]; then
        SOURCE=given
    elif [ -n "${INSTALL_KNARR_DOWNLOAD_URL:-}" ]; then
        SOURCE=download
    elif grep -qs '^name = "knarr"' "$CHECKOUT/Cargo.toml"; then
        SOURCE=checkout
        find_cargo
    else
        fail "there is no checkout of knarr here: give an executable with INSTALL_KNARR_BIN or INSTALL_KNARR_DOWNLOAD_URL"
    fi
}

find_binary() {
    FETCHED=
    case "$SOURCE" in
        given) NEW=$INSTALL_KNARR_BIN ;;
        download) download ;;
        checkout) build ;;
    esac
    [ -f "$NEW" ] || fail "there is no executable at $NEW"
    VERSION=$("$NEW" --version 2>/dev/null) || fail "$NEW does not run on this machine"
}

install_binary() {
    mkdir -p "$BIN_DIR"
    if ! cmp -s "$NEW" "$KNARR"; then
        CHANGED=true
        # A running executable cannot be written to, but it can be replaced.
        cp "$NEW" "$KNARR.new"
        chmod 755 "$KNARR.new"
        mv -f "$KNARR.new" "$KNARR"
    fi
    [ -z "$FETCHED" ] || rm -f "$FETCHED"
    has kubectl || ln -sf knarr "$BIN_DIR/kubectl"
}

# --- files ------------------------------------------------------------------------------------------

# Writes standard input to a file with a mode, and notes whether that changed it.
put() {
    draft=$1.new
    (umask 077 && cat >"$draft")
    chmod "$2" "$draft"
    if cmp -s "$draft" "$1"; then
        rm -f "$draft"
    else
        mv -f "$draft" "$1"
        CHANGED=true
    fi
}

quote() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }

# knarr's settings and the proxies of the one who installs, for the service alone to read.
write_environment() {
    lines=$(env | LC_ALL=C sort | sed -n 's/^\(KNARR_[A-Z0-9_]*\|HTTPS\{0,1\}_PROXY\|NO_PROXY\)=.*/\1/p' | while read -r name; do
        eval "value=\$$name"
        printf '%s=%s\n' "$name" "$(quote "$value")"
    done)
    put "$1" 600 <<ENV_END
$lines
ENV_END
}

systemd_arguments() {
    for word in "$@"; do
        printf ' "%s"' "$(printf '%s' "$word" | sed 's/[\\"]/\\&/g; s/%/%%/g; s/\$/$$/g')"
    done
}

write_systemd_unit() {
    write_environment "$UNIT.env"
    put "$UNIT" 644 <<UNIT_END
[Unit]
Description=knarr: Kubernetes in one executable
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
EnvironmentFile=-$UNIT.env
ExecStartPre=-/bin/sh -c "grep -qw overlay /proc/filesystems || modprobe overlay"
ExecStart=$KNARR$(systemd_arguments "$@")
# Pods outlive knarr.
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s

[Install]
WantedBy=multi-user.target
UNIT_END
}

shell_arguments() {
    for word in "$@"; do printf ' %s' "$(quote "$word")"; done
}

write_openrc_script() {
    mkdir -p /etc/knarr
    write_environment /etc/knarr/knarr.env
    put "$RC_SCRIPT" 755 <<RC_END
#!/sbin/openrc-run

description="knarr: Kubernetes in one executable"

depend() {
    after network-online
    want cgroups
}

set -o allexport
[ ! -f /etc/knarr/knarr.env ] || . /etc/knarr/knarr.env
set +o allexport

supervisor=supervise-daemon
name=knarr
command="$KNARR"
command_args="$(shell_arguments "$@" | sed 's/["$`\\]/\\&/g')"
output_log=$LOG_FILE
error_log=$LOG_FILE
pidfile=$PID_FILE
respawn_delay=5
respawn_max=0
rc_ulimit="-n 1048576"
RC_END
}

# Without an init system: what the running process was started with, to notice changes.
write_plain_settings() {
    mkdir -p /etc/knarr
    write_environment /etc/knarr/knarr.env
    put /etc/knarr/knarr.args 600 <<ARGS_END
$(shell_arguments "$@")
ARGS_END
}

write_service() {
    case "$INIT" in
        systemd) write_systemd_unit "$@" ;;
        openrc) write_openrc_script "$@" ;;
        none) write_plain_settings "$@" ;;
    esac
}

write_killall() {
    put "$BIN_DIR/knarr-killall.sh" 755 <<KILLALL_HEAD
#!/bin/sh
# Stops knarr, its containerd and every pod, and undoes what they did to this machine's network, mounts
# and cgroups. Data stays: started again, knarr runs the same pods. Written by install.sh.
set -u
DATA_DIR=$DATA_DIR
RUN_DIR=$RUN_DIR
KUBELET_DIR=$KUBELET_DIR
PID_FILE=$PID_FILE
KNARR=$KNARR
$(killall_body)
KILLALL_HEAD
}

killall_body() {
    cat <<'BODY_END'

[ "$(id -u)" = 0 ] || { echo "run it as root: sudo $0" >&2; exit 1; }

# The processes whose command line has this text, but for this script.
with_text() {
    for file in /proc/[0-9]*/cmdline; do
        pid=${file#/proc/}
        pid=${pid%/cmdline}
        [ "$pid" != $$ ] || continue
        if { tr '\0' ' ' <"$file"; } 2>/dev/null | grep -qF -- "$1"; then echo "$pid"; fi
    done
}

# Processes and all that descend from them.
trees() {
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v roots="$*" '
        # Behind the name in brackets, which may have spaces: the state, then the parent.
        { pid = $1; sub(/^.*\) [A-Za-z] /, ""); parent[pid] = $1 }
        END {
            count = split(roots, root, " ")
            for (i = 1; i <= count; i++) in_tree[root[i]] = 1
            do {
                grown = 0
                for (pid in parent) if (!(pid in in_tree) && parent[pid] in in_tree) { in_tree[pid] = 1; grown = 1 }
            } while (grown)
            for (pid in in_tree) print pid
        }'
}

alive() {
    for pid in "$@"; do
        case "$(sed -n 's/^[0-9]* (.*) \([A-Z]\) .*/\1/p' "/proc/$pid/stat" 2>/dev/null)" in
            '' | Z | X) ;;
            *) return 0 ;;
        esac
    done
    return 1
}

# Ends processes: asks first, then insists.
end() {
    [ $# -gt 0 ] || return 0
    kill -TERM "$@" 2>/dev/null
    tries=0
    while alive "$@"; do
        tries=$((tries + 1))
        [ $tries -ne 100 ] || kill -KILL "$@" 2>/dev/null
        [ $tries -lt 200 ] || { echo "these processes do not end: $*" >&2; return 1; }
        sleep 0.1
    done
}

stop_knarr() {
    if [ -d /run/systemd/system ] && [ -f /etc/systemd/system/knarr.service ]; then
        systemctl stop knarr.service
    elif [ -d /run/openrc ] && [ -f /etc/init.d/knarr ]; then
        rc-service --ifstarted knarr stop
    fi
    # shellcheck disable=SC2046
    end $(with_text "$KNARR server")
    rm -f "$PID_FILE"
}

# Only the containerd with knarr's configuration, and the shims that serve it: each shim's pods are its
# descendants.
stop_pods() {
    # shellcheck disable=SC2046
    end $(with_text "$DATA_DIR/agent/containerd/config.toml")
    # shellcheck disable=SC2046
    pods=$(trees $(with_text "-address $RUN_DIR/containerd/containerd.sock"))
    # shellcheck disable=SC2086
    [ -z "$pods" ] || kill -KILL $pods 2>/dev/null
    # shellcheck disable=SC2086
    end $pods
}

# Everything mounted below a folder, the latest first; the folder itself may be a disk of its own.
unmount_below() {
    awk -v below="$1/" 'index($5, below) == 1 {print $5}' /proc/self/mountinfo | sort -ru | while read -r place; do
        place=$(printf '%b' "$(printf '%s' "$place" | sed 's/\\\([0-7]\{3\}\)/\\0\1/g')")
        umount -l "$place" || echo "cannot unmount $place" >&2
    done
}

# The network namespaces that containerd's records name: those of knarr's pods, and no others.
remove_namespaces() {
    records=$DATA_DIR/agent/containerd/io.containerd.metadata.v1.bolt/meta.db
    [ -f "$records" ] || return 0
    tr -c 'A-Za-z0-9/_.-' '\n' <"$records" | grep '^/.*/netns/cni-' | sort -u | while read -r place; do
        [ -e "$place" ] || continue
        umount -l "$place" 2>/dev/null
        rm -f "$place"
    done
}

# What libcni and the shims keep in folders that they share with other runtimes.
remove_traces() {
    for result in /var/lib/cni/results/knarr-*; do
        id=${result#/var/lib/cni/results/knarr-}
        rm -f "$result" "/var/lib/cni/results/cni-loopback-${id%-*}-lo"
    done
    rmdir /var/lib/cni/results /var/lib/cni 2>/dev/null
    for state in /run/containerd/runc/k8s.io/*/state.json; do
        if grep -qsF "bundle=$RUN_DIR/containerd/" "$state"; then rm -rf "${state%/state.json}"; fi
    done
    rmdir /run/containerd/runc/k8s.io /run/containerd/runc 2>/dev/null
    if ! cat /proc/[0-9]*/comm 2>/dev/null | grep -qE '^(containerd|dockerd)'; then
        rm -rf /run/containerd/s /run/containerd/fifo
        rmdir /run/containerd 2>/dev/null
    fi
}

# Pods' cgroups in every hierarchy; those that another kubelet still uses are not empty and stay.
remove_cgroups() {
    for folder in /sys/fs/cgroup/kubepods /sys/fs/cgroup/*/kubepods /sys/fs/cgroup/kubepods.slice /sys/fs/cgroup/*/kubepods.slice; do
        [ ! -d "$folder" ] || find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null
    done
}

stop_knarr
stop_pods
unmount_below "$KUBELET_DIR/pods"
unmount_below "$KUBELET_DIR/plugins"
unmount_below "$RUN_DIR"
unmount_below "$DATA_DIR"
remove_namespaces
remove_traces
[ ! -x "$KNARR" ] || "$KNARR" teardown
remove_cgroups
rm -rf "$RUN_DIR"
exit 0
BODY_END
}

write_uninstall() {
    put "$BIN_DIR/knarr-uninstall.sh" 755 <<UNINSTALL_HEAD
#!/bin/sh
# Removes knarr and everything it made, its data too. Packages that were installed stay. Written by
# install.sh.
set -u
DATA_DIR=$DATA_DIR
KUBELET_DIR=$KUBELET_DIR
LOG_DIR=$LOG_DIR
LOG_FILE=$LOG_FILE
BIN_DIR=$BIN_DIR
KUBECONFIG_FILE=$KUBECONFIG_FILE
$(uninstall_body)
UNINSTALL_HEAD
}

uninstall_body() {
    cat <<'BODY_END'

[ "$(id -u)" = 0 ] || { echo "run it as root: sudo $0" >&2; exit 1; }

# Another kubelet keeps its pods' volumes and logs in the same folders.
shared() { cat /proc/[0-9]*/comm 2>/dev/null | grep -qxE 'kubelet|k3s-server|k3s-agent|k0s|rke2'; }

remove_logs() {
    if ! shared; then
        # Where the machine's mounts are not shared, knarr has bound the folder to itself.
        if awk -v at="$KUBELET_DIR" '$5 == at && $4 != "/" { found = 1 } END { exit !found }' /proc/self/mountinfo; then
            umount -l "$KUBELET_DIR"
        fi
        rm -rf "$LOG_DIR/pods" "$LOG_DIR/containers" "$KUBELET_DIR"
        return
    fi
    for pod in $uids; do
        rm -rf "$LOG_DIR"/pods/*_"$pod" "$KUBELET_DIR/pods/$pod"
    done
    # Links to logs that are gone.
    find "$LOG_DIR/containers" -type l ! -exec test -e {} \; -exec rm -f {} + 2>/dev/null
}

# knarr's pods, by what its containerd keeps of them.
uids=$(tr -c 'A-Za-z0-9/_.-' '\n' <"$DATA_DIR/agent/containerd/io.containerd.metadata.v1.bolt/meta.db" 2>/dev/null |
    sed -n 's/^.*\/pod\([0-9a-f-]\{36\}\).*$/\1/p' | sort -u)
"$BIN_DIR/knarr-killall.sh"
if [ -f /etc/systemd/system/knarr.service ]; then
    systemctl disable knarr.service >/dev/null 2>&1
    rm -f /etc/systemd/system/knarr.service /etc/systemd/system/knarr.service.env
    [ ! -d /run/systemd/system ] || { systemctl daemon-reload; systemctl reset-failed knarr.service 2>/dev/null; }
fi
if [ -f /etc/init.d/knarr ]; then
    rc-update delete knarr default >/dev/null 2>&1
    rm -f /etc/init.d/knarr
fi
remove_logs
# A folder that is a disk of its own is emptied.
rm -rf "$DATA_DIR" 2>/dev/null
rm -rf /etc/knarr "$KUBECONFIG_FILE" "$LOG_FILE"
[ "$(readlink "$BIN_DIR/kubectl" 2>/dev/null)" != knarr ] || rm -f "$BIN_DIR/kubectl"
rm -f "$BIN_DIR/knarr" "$BIN_DIR/knarr-killall.sh" "$BIN_DIR/knarr-uninstall.sh"
echo "knarr is uninstalled."
BODY_END
}

# --- the service ------------------------------------------------------------------------------------

running_pid() {
    [ -f "$PID_FILE" ] || return 1
    pid=$(cat "$PID_FILE")
    { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF "$KNARR server" && printf '%s' "$pid"
}

is_running() {
    case "$INIT" in
        systemd) systemctl is-active --quiet knarr.service ;;
        openrc) rc-service knarr status >/dev/null 2>&1 ;;
        none) running_pid >/dev/null ;;
    esac
}

# Is it on its way up, or up; not so when it failed.
is_trying() {
    case "$INIT" in
        systemd) ! systemctl is-failed --quiet knarr.service ;;
        *) is_running ;;
    esac
}

start_plain() {
    if pid=$(running_pid); then
        kill -TERM "$pid"
        while running_pid >/dev/null; do sleep 0.1; done
    fi
    # A session of its own, so that closing this terminal does not end it.
    if has setsid; then detach=setsid; else detach='nohup'; fi
    "$detach" "$KNARR" "$@" </dev/null >>"$LOG_FILE" 2>&1 &
    printf '%s\n' "$!" >"$PID_FILE"
}

start_service() {
    case "$INIT" in
        systemd)
            systemctl daemon-reload
            systemctl enable --quiet knarr.service
            systemctl restart --no-block knarr.service
            ;;
        openrc)
            rc-update add knarr default >/dev/null
            rc-service knarr restart >/dev/null 2>&1 || rc-service knarr start
            ;;
        none) start_plain "$@" ;;
    esac
}

last_words() {
    if [ "$INIT" = systemd ] && has journalctl; then
        journalctl -u knarr.service -n 20 --no-pager -o cat >&2
    else
        tail -n 20 "$LOG_FILE" >&2
    fi
}

progress() {
    if [ -t 1 ]; then
        printf '\r%s (%s s) ' "$1" "$2"
    elif [ "$1" != "$said" ]; then
        say "$1"
        said=$1
    fi
}

wait_ready() {
    waited=0 said=
    limit=${INSTALL_KNARR_WAIT:-300}
    while :; do
        nodes=$("$KNARR" kubectl --kubeconfig "$KUBECONFIG_FILE" get nodes --no-headers 2>/dev/null || true)
        if printf '%s\n' "$nodes" | awk '$2 == "Ready" || $2 ~ /^Ready,/ {found = 1} END {exit !found}'; then
            break
        fi
        if ! is_trying; then
            [ ! -t 1 ] || echo
            last_words
            fail "knarr ended while starting (see above)"
        fi
        [ "$waited" -lt "$limit" ] || {
            [ ! -t 1 ] || echo
            last_words
            fail "the node is not Ready after $limit s (see above); knarr goes on trying"
        }
        if [ -n "$nodes" ]; then
            progress "Waiting for the node to be Ready" "$waited"
        else
            progress "Waiting for the API server" "$waited"
        fi
        sleep 1
        waited=$((waited + 1))
    done
    [ ! -t 1 ] || printf '\r\033[K'
}

say_next() {
    if [ "$(readlink "$(command -v kubectl)" 2>/dev/null)" = knarr ]; then
        command=kubectl
    else
        command="kubectl --kubeconfig $KUBECONFIG_FILE"
    fi
    say "The node is Ready. Try next:"
    say "  sudo $command get nodes -o wide"
    say "  sudo $command apply -f your-application.yaml"
    say "  sudo $command get all --all-namespaces"
}

main() {
    check_machine
    read_settings "$@"
    choose_source
    install_packages
    find_binary
    known=false
    [ ! -x "$KNARR" ] || known=true
    install_binary
    write_service "$@"
    write_killall
    write_uninstall
    if ! $CHANGED && is_running; then
        say "Nothing changed: $VERSION is installed and running."
        return
    fi
    if ! $CHANGED; then
        say "Nothing changed: $VERSION is installed, and is started."
    elif $known; then
        say "Upgraded to $VERSION"
    else
        say "Installed $VERSION"
    fi
    case "${INSTALL_KNARR_SKIP_START:-}" in true | 1 | yes) return ;; esac
    start_service "$@"
    case "$* " in *" --disable-agent "*) return ;; esac
    wait_ready
    say_next
}

with_arguments main "$@"
