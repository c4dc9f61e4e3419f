#!/bin/sh
# Installs knarr, Kubernetes in one executable, and starts it.
#
#   sudo ./install.sh                       from a checkout: builds it first
#   sudo ./install.sh                       from an unpacked archive of scripts/package: needs no network
#   curl -sfL <url> | sudo INSTALL_KNARR_DOWNLOAD_URL=<url> sh -
#   KNARR_URL=https://192.0.2.1:6443 KNARR_TOKEN=K10... ./install.sh      a node of that cluster
#
# Run again it upgrades, or says that nothing changed; run again without settings it keeps those that it
# was given. `knarr killall` and `knarr uninstall` undo it. docs/install.md tells more of each setting.
#
# Settings, all optional, in the environment:
#   INSTALL_KNARR_EXEC              what to run, such as "server --tls-san example.org" or "agent"
#   INSTALL_KNARR_BIN               an executable to install
#   INSTALL_KNARR_DOWNLOAD_URL      where to fetch one; its SHA-256 is expected at the same URL plus .sha256
#   INSTALL_KNARR_RELEASES_URL      where releases are: <url>/<version>/knarr-<architecture>, with .sha256 beside it
#   INSTALL_KNARR_VERSION           which of them
#   INSTALL_KNARR_CHANNEL           or the one that a channel names [stable]
#   INSTALL_KNARR_CHANNEL_URL       where channels are: <url>/<channel> is a file with a version [<releases>/channels]
#   INSTALL_KNARR_SKIP_DOWNLOAD     true: fetch and build nothing; the executable that is installed stays
#   INSTALL_KNARR_FORCE_RESTART     true: restart also where nothing changed
#   INSTALL_KNARR_SKIP_ENABLE       true: neither start it now nor with the machine
#   INSTALL_KNARR_SKIP_START        true: do not start it now
#   INSTALL_KNARR_SYMLINK           skip: no link kubectl; force: also where there is a kubectl [only where there is none]
#   INSTALL_KNARR_BIN_DIR           where executables go [/usr/local/bin, or /opt/bin where that cannot be written]
#   INSTALL_KNARR_BIN_DIR_READ_ONLY true: write nothing there; the executable is there already
#   INSTALL_KNARR_SYSTEMD_DIR       where units go [/etc/systemd/system]
#   INSTALL_KNARR_NAME              the service is knarr-<name> [knarr, or knarr-agent]
#   INSTALL_KNARR_TYPE              the service's type for systemd [notify]
#   INSTALL_KNARR_SELINUX_WARN      true: install where SELinux is enforced
#   INSTALL_KNARR_WAIT              seconds to wait for the node [300]
#   KNARR_*                         knarr's own settings, kept for the service, which root alone can read
set -eu

KNOWN=" EXEC BIN DOWNLOAD_URL RELEASES_URL VERSION CHANNEL CHANNEL_URL SKIP_DOWNLOAD FORCE_RESTART SKIP_ENABLE
 SKIP_START SYMLINK BIN_DIR BIN_DIR_READ_ONLY SYSTEMD_DIR NAME TYPE SELINUX_WARN WAIT "
ETC=/etc/knarr
CHANGED=false

say() { printf '%s\n' "$*"; }

warn() { printf 'install.sh: %s\n' "$*" >&2; }

fail() {
    warn "$@"
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

is_true() { case "${1:-}" in true | 1 | yes) return 0 ;; *) return 1 ;; esac; }

# --- what is asked for ------------------------------------------------------------------------------

check_names() {
    for name in $(env | sed -n 's/^INSTALL_KNARR_\([A-Z0-9_]*\)=.*/\1/p'); do
        case "$name" in
            COMMIT | PR) fail "INSTALL_KNARR_$name: nothing is published for single changes; check it out and run ./install.sh there" ;;
            SKIP_SELINUX_RPM) warn "INSTALL_KNARR_$name: there is no such package to leave out" ;;
            *) case "$(echo $KNOWN | sed 's/^/ /; s/$/ /')" in *" $name "*) ;; *) warn "INSTALL_KNARR_$name is no setting of this script" ;; esac ;;
        esac
    done
}

# Whether somebody says how the service is to run.
is_told() { [ -n "${INSTALL_KNARR_EXEC:-}" ] || env | grep -q '^KNARR_[A-Z0-9_]*='; }

# The record of what was installed before, if there is one and nobody says how it is to run now.
find_record() {
    RECORD=
    if ! is_told; then
        for file in "$ETC"/installed/*; do
            [ -f "$file" ] || continue
            [ -z "${INSTALL_KNARR_NAME:-}" ] || [ "${file##*/}" = "knarr-$INSTALL_KNARR_NAME" ] || continue
            [ -z "$RECORD" ] || fail "several services are installed: name one with INSTALL_KNARR_NAME"
            RECORD=$file
        done
    fi
}

# Arguments of the service, as one word each in "$@" of whoever calls `with_arguments command…`.
with_arguments() {
    run=$1
    if [ -n "$RECORD" ]; then
        set --
        while IFS= read -r line; do
            case "$line" in argument=*) set -- "$@" "${line#argument=}" ;; esac
        done <"$RECORD"
    else
        set -f
        # Words are parted at spaces, as INSTALL_KNARR_EXEC says them.
        # shellcheck disable=SC2086
        set -- ${INSTALL_KNARR_EXEC:-}
        set +f
        case "${1:-}" in
            '' | -*) if [ -n "${KNARR_URL:-}" ]; then set -- agent "$@"; else set -- server "$@"; fi ;;
            server | agent) ;;
            *) fail "INSTALL_KNARR_EXEC begins with \"$1\": it is either \"server\" or \"agent\"" ;;
        esac
    fi
    without_token "$run" "$@"
}

# Everybody on the machine sees the arguments of others: a token among them goes into the environment, which only
# root can read.
without_token() {
    run=$1
    shift
    count=$#
    while [ "$count" -gt 0 ]; do
        case "$1" in
            --token=*) export KNARR_TOKEN="${1#*=}" ;;
            --token)
                [ "$count" -gt 1 ] || fail "--token needs a value"
                export KNARR_TOKEN="$2"
                shift
                count=$((count - 1))
                ;;
            *) set -- "$@" "$1" ;;
        esac
        shift
        count=$((count - 1))
    done
    "$run" "$@"
}

check_machine() {
    [ "$(id -u)" = 0 ] || fail "run it as root: sudo ./install.sh"
    [ "$(uname -s)" = Linux ] || fail "knarr runs on Linux"
    case "$(uname -m)" in
        x86_64 | amd64) ARCHITECTURE=amd64 ;;
        aarch64 | arm64) ARCHITECTURE=arm64 ;;
        *) ARCHITECTURE=$(uname -m) ;;
    esac
    if [ -d /run/systemd/system ] && has systemctl; then
        INIT=systemd
    elif [ -d /run/openrc ] && has rc-service; then
        INIT=openrc
    else
        INIT=none
    fi
    if has getenforce && [ "$(getenforce)" = Enforcing ] && ! is_true "${INSTALL_KNARR_SELINUX_WARN:-}"; then
        fail "SELinux is enforced, and knarr brings no policy: containers would not be confined by it. Go on with INSTALL_KNARR_SELINUX_WARN=true"
    fi
}

# What the service and its files are called.
name_service() {
    case "${INSTALL_KNARR_NAME:-}" in
        '') if [ "$1" = agent ]; then SERVICE=knarr-agent; else SERVICE=knarr; fi ;;
        *[!A-Za-z0-9_-]*) fail "INSTALL_KNARR_NAME has other characters than letters, digits, - and _" ;;
        *) SERVICE=knarr-$INSTALL_KNARR_NAME ;;
    esac
    [ -z "$RECORD" ] || SERVICE=${RECORD##*/}
    case "${INSTALL_KNARR_TYPE:=notify}" in
        notify | exec | simple) ;;
        *) fail "INSTALL_KNARR_TYPE is notify, exec or simple" ;;
    esac
    SYSTEMD_DIR=${INSTALL_KNARR_SYSTEMD_DIR:-/etc/systemd/system}
    UNIT=$SYSTEMD_DIR/$SERVICE.service
    RC_SCRIPT=/etc/init.d/$SERVICE
    PID_FILE=/run/$SERVICE.pid
    LOG_FILE=/var/log/$SERVICE.log
    if [ "$INIT" = systemd ]; then ENVIRONMENT=$UNIT.env; else ENVIRONMENT=$ETC/$SERVICE.env; fi
    for other in "$ETC"/installed/*; do
        [ ! -f "$other" ] || [ "${other##*/}" = "$SERVICE" ] || [ -n "${INSTALL_KNARR_NAME:-}" ] ||
            fail "this machine has the service ${other##*/}: run \`knarr uninstall\` first, or give another INSTALL_KNARR_NAME"
    done
}

choose_bin_dir() {
    BIN_DIR=${INSTALL_KNARR_BIN_DIR:-}
    if [ -z "$BIN_DIR" ]; then
        BIN_DIR=/usr/local/bin
        { mkdir -p $BIN_DIR && [ -w $BIN_DIR ]; } 2>/dev/null || BIN_DIR=/opt/bin
    fi
    KNARR=$BIN_DIR/knarr
    # What is put there is found from now on; who types it has to say where it is.
    case ":$PATH:" in
        *":$BIN_DIR:"*) FOLDER='' ;;
        *) FOLDER=$BIN_DIR/ PATH=$PATH:$BIN_DIR ;;
    esac
    if is_true "${INSTALL_KNARR_BIN_DIR_READ_ONLY:-}"; then WRITABLE=false; else WRITABLE=true; fi
}

# --- packages ---------------------------------------------------------------------------------------

# The packages whose programs are not there: $1 names the C compiler's.
missing_packages() {
    for program in containerd runc; do
        has $program || [ -x "$DATA_DIR/agent/bin/$program" ] || printf '%s ' $program
    done
    has nft || printf 'nftables '
    if [ "$SOURCE" = checkout ]; then
        has cc || has gcc || has clang || printf '%s ' "$1"
    fi
}

install_packages() {
    if has apt-get; then
        manager=apt-get packages=$(missing_packages 'gcc libc6-dev')
    elif has dnf; then
        manager=dnf packages=$(missing_packages gcc)
    elif has apk; then
        manager=apk packages=$(missing_packages 'gcc musl-dev')
    elif has zypper; then
        manager=zypper packages=$(missing_packages gcc)
    elif has pacman; then
        manager=pacman packages=$(missing_packages gcc)
    else
        manager='' packages=$(missing_packages gcc)
    fi
    [ -n "$packages" ] || return 0
    ! is_true "${INSTALL_KNARR_SKIP_DOWNLOAD:-}" || fail "install these first, since nothing is to be fetched: $packages"
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
    owner=$(stat -c %U "$HERE/Cargo.toml")
    if [ -n "${SUDO_USER:-}" ] && [ "$owner" = "$SUDO_USER" ] && has sudo; then
        sudo -u "$SUDO_USER" env PATH="$PATH" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HERE/target}" \
            cargo build --release --locked --manifest-path "$HERE/Cargo.toml" || fail "the build failed (see above)"
    else
        cargo build --release --locked --manifest-path "$HERE/Cargo.toml" || fail "the build failed (see above)"
    fi
    NEW=${CARGO_TARGET_DIR:-$HERE/target}/release/knarr
}

# Fetches an executable with its sum.
download() {
    say "Fetching $1"
    fetch "$1" "$SCRATCH/knarr"
    fetch "$1.sha256" "$SCRATCH/knarr.sha256"
    wanted=$(cut -d' ' -f1 "$SCRATCH/knarr.sha256")
    found=$(sha256sum "$SCRATCH/knarr" | cut -d' ' -f1)
    [ "$wanted" = "$found" ] || fail "what was fetched has another SHA-256 than $1.sha256 says"
    NEW=$SCRATCH/knarr
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

# The URL of the release that is asked for.
release_url() {
    version=${INSTALL_KNARR_VERSION:-}
    if [ -z "$version" ]; then
        channel=${INSTALL_KNARR_CHANNEL:-stable}
        fetch "${INSTALL_KNARR_CHANNEL_URL:-$INSTALL_KNARR_RELEASES_URL/channels}/$channel" "$SCRATCH/channel"
        read -r version _ <"$SCRATCH/channel" || [ -n "$version" ] || fail "the channel $channel names no version"
    fi
    case "$version" in *[!A-Za-z0-9.+_-]*) fail "\"$version\" is no version" ;; esac
    printf '%s' "$INSTALL_KNARR_RELEASES_URL/$version/knarr-$ARCHITECTURE"
}

# Where the executable comes from.
choose_source() {
    case "$0" in
        */*) HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) ;;
        *) HERE=$(pwd) ;;
    esac
    if is_true "${INSTALL_KNARR_SKIP_DOWNLOAD:-}" || ! $WRITABLE; then
        SOURCE=installed
    elif [ -n "${INSTALL_KNARR_BIN:-}" ]; then
        SOURCE=given
    elif [ -n "${INSTALL_KNARR_DOWNLOAD_URL:-}" ]; then
        SOURCE=download
    elif [ -n "${INSTALL_KNARR_RELEASES_URL:-}" ]; then
        SOURCE=release
    elif [ -f "$HERE/SHA256SUMS" ] && [ -f "$HERE/knarr" ]; then
        SOURCE=package
    elif grep -qs '^name = "knarr"' "$HERE/Cargo.toml"; then
        SOURCE=checkout
        find_cargo
    else
        fail "there is no knarr here: give an executable with INSTALL_KNARR_BIN, or where to fetch it with INSTALL_KNARR_DOWNLOAD_URL or INSTALL_KNARR_RELEASES_URL"
    fi
}

find_binary() {
    case "$SOURCE" in
        installed) NEW=$KNARR ;;
        given) NEW=$INSTALL_KNARR_BIN ;;
        download) download "$INSTALL_KNARR_DOWNLOAD_URL" ;;
        release)
            url=$(release_url)
            download "$url"
            ;;
        package)
            (cd "$HERE" && sha256sum --quiet -c SHA256SUMS) || fail "the unpacked archive is not whole (see above)"
            NEW=$HERE/knarr
            ;;
        checkout)
            packages_of_build
            build
            ;;
    esac
    [ -f "$NEW" ] || fail "there is no executable at $NEW"
    VERSION=$("$NEW" --version 2>/dev/null) || fail "$NEW does not run on this machine"
}

# A compiler is needed before there is an executable to ask.
packages_of_build() {
    DATA_DIR=${KNARR_DATA_DIR:-/var/lib/knarr}
    install_packages
}

install_binary() {
    if [ "$SOURCE" != installed ] && ! cmp -s "$NEW" "$KNARR"; then
        mkdir -p "$BIN_DIR"
        CHANGED=true
        # A running executable cannot be written to, but it can be replaced.
        cp "$NEW" "$KNARR.new"
        chmod 755 "$KNARR.new"
        mv -f "$KNARR.new" "$KNARR"
        ! has restorecon || restorecon "$KNARR" || warn "SELinux' label of $KNARR cannot be set"
    fi
    ! $WRITABLE || made "$KNARR"
    link_kubectl
}

# A kubectl that is there already stays.
link_kubectl() {
    link=$BIN_DIR/kubectl
    case "${INSTALL_KNARR_SYMLINK:-}" in
        '' | skip | force) ;;
        *) fail "INSTALL_KNARR_SYMLINK is skip or force" ;;
    esac
    if [ "$(readlink "$link" 2>/dev/null)" = knarr ]; then
        made "$link"
    elif $WRITABLE && [ "${INSTALL_KNARR_SYMLINK:-}" != skip ]; then
        if ! has kubectl || { [ "${INSTALL_KNARR_SYMLINK:-}" = force ] && { [ -L "$link" ] || [ ! -e "$link" ]; }; }; then
            ln -sf knarr "$link"
            made "$link"
        fi
    fi
}

# What an archive of scripts/package brings beside the executable.
install_package() {
    [ "$SOURCE" = package ] || return 0
    for file in "$HERE"/bin/* "$HERE"/lib/* "$HERE"/images/*; do
        [ -f "$file" ] || continue
        target=$DATA_DIR/agent${file#"$HERE"}
        case "$file" in
            */bin/nft)
                if has nft && [ "$(command -v nft)" != "$BIN_DIR/nft" ]; then continue; fi
                ;;
        esac
        if ! cmp -s "$file" "$target"; then
            (umask 022 && mkdir -p "${target%/*}")
            cp "$file" "$target.new"
            mv -f "$target.new" "$target"
            case "$file" in */images/*) ;; *) CHANGED=true ;; esac
        fi
        # It is looked for where programs are.
        case "$file" in
            */bin/nft)
                mkdir -p "$BIN_DIR"
                ln -sf "$target" "$BIN_DIR/nft"
                made "$BIN_DIR/nft"
                ;;
        esac
    done
    for program in "$DATA_DIR"/agent/bin/containerd "$DATA_DIR"/agent/bin/runc "$DATA_DIR"/agent/bin/nft; do
        [ ! -f "$program" ] || "$program" --version >/dev/null 2>&1 ||
            fail "$program does not run on this machine, whose C library is older than that of the machine it was packed on: $("$program" --version 2>&1 | head -n 1)"
    done
}

# --- files ------------------------------------------------------------------------------------------

# Notes a file for the record, by which `knarr uninstall` knows what to remove.
made() { printf 'made=%s\n' "$1" >>"$SCRATCH/made"; }

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
    made "$1"
}

quote() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }

# knarr's settings and the proxies of the one who installs, for the service alone to read. They stay where nobody gives
# others.
write_environment() {
    if [ -n "$RECORD" ]; then
        made "$ENVIRONMENT"
        return
    fi
    lines=$(env | LC_ALL=C sort | sed -n 's/^\(KNARR_[A-Z0-9_]*\|HTTPS\{0,1\}_PROXY\|NO_PROXY\)=.*/\1/p' | while read -r name; do
        eval "value=\$$name"
        printf '%s=%s\n' "$name" "$(quote "$value")"
    done)
    put "$ENVIRONMENT" 600 <<ENV_END
$lines
ENV_END
}

systemd_arguments() {
    for word in "$@"; do
        printf ' "%s"' "$(printf '%s' "$word" | sed 's/[\\"]/\\&/g; s/%/%%/g; s/\$/$$/g')"
    done
}

# Where the init looks for programs, and where they are.
USUAL_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

program_path() {
    case ":$USUAL_PATH:" in
        *":$BIN_DIR:"*) ;;
        *) printf '%s' "$USUAL_PATH:$BIN_DIR" ;;
    esac
}

write_systemd_unit() {
    path=$(program_path)
    put "$UNIT" 644 <<UNIT_END
[Unit]
Description=knarr: Kubernetes in one executable
Wants=network-online.target
After=network-online.target

[Service]
Type=$INSTALL_KNARR_TYPE
${path:+Environment=PATH=$path
}EnvironmentFile=-$ENVIRONMENT
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
    path=$(program_path)
    put "$RC_SCRIPT" 755 <<RC_END
#!/sbin/openrc-run

description="knarr: Kubernetes in one executable"

depend() {
    after network-online
    want cgroups
}

set -o allexport
${path:+PATH=$path
}[ ! -f $ENVIRONMENT ] || . $ENVIRONMENT
set +o allexport

supervisor=supervise-daemon
name=$SERVICE
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

write_service() {
    write_environment
    case "$INIT" in
        systemd) write_systemd_unit "$@" ;;
        openrc) write_openrc_script "$@" ;;
        none) ;;
    esac
    [ "$INIT" = systemd ] || { made "$LOG_FILE" && made "$PID_FILE"; }
}

# The names that k3s' users know.
write_scripts() {
    $WRITABLE || return 0
    put "$BIN_DIR/knarr-killall.sh" 755 <<SCRIPT_END
#!/bin/sh
exec $KNARR killall "\$@"
SCRIPT_END
    put "$BIN_DIR/$SERVICE-uninstall.sh" 755 <<SCRIPT_END
#!/bin/sh
exec $KNARR uninstall --yes "\$@"
SCRIPT_END
}

write_record() {
    {
        say "# What install.sh installed; \`knarr uninstall\` removes it."
        say "service=$SERVICE"
        say "init=$INIT"
        say "environment=$ENVIRONMENT"
        for word in "$@"; do
            case "$word" in *"
"*) fail "an argument has a line break" ;; esac
            say "argument=$word"
        done
        sort -u "$SCRATCH/made"
    } >"$SCRATCH/record"
    put "$ETC/installed/$SERVICE" 644 <"$SCRATCH/record"
}

# --- the service ------------------------------------------------------------------------------------

running_pid() {
    [ -f "$PID_FILE" ] || return 1
    pid=$(cat "$PID_FILE")
    { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF "$KNARR $ROLE" && printf '%s' "$pid"
}

is_running() {
    case "$INIT" in
        systemd) systemctl is-active --quiet "$SERVICE.service" ;;
        openrc) rc-service "$SERVICE" status >/dev/null 2>&1 ;;
        none) running_pid >/dev/null ;;
    esac
}

# Is it on its way up, or up; not so when it failed, or failed again and again.
is_trying() {
    case "$INIT" in
        systemd)
            restarts=$(systemctl show -p NRestarts --value "$SERVICE.service")
            ! systemctl is-failed --quiet "$SERVICE.service" && [ "${restarts:-0}" -lt 3 ]
            ;;
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
    set -- "$detach" "$KNARR" "$@"
    (
        set -o allexport
        # shellcheck disable=SC1090
        . "$ENVIRONMENT"
        exec "$@" </dev/null >>"$LOG_FILE" 2>&1
    ) &
    printf '%s\n' "$!" >"$PID_FILE"
}

enable_service() {
    case "$INIT" in
        systemd)
            systemctl daemon-reload
            systemctl enable --quiet "$SERVICE.service"
            ;;
        openrc) rc-update add "$SERVICE" default >/dev/null ;;
        none) ;;
    esac
}

start_service() {
    said_before=$(log_lines)
    case "$INIT" in
        systemd)
            systemctl reset-failed "$SERVICE.service" 2>/dev/null || true
            systemctl restart --no-block "$SERVICE.service"
            ;;
        openrc) rc-service "$SERVICE" restart >/dev/null 2>&1 || rc-service "$SERVICE" start ;;
        none) start_plain "$@" ;;
    esac
}

log_lines() { if [ -f "$LOG_FILE" ]; then wc -l <"$LOG_FILE"; else echo 0; fi; }

last_words() {
    if [ "$INIT" = systemd ] && has journalctl; then
        journalctl -u "$SERVICE.service" -n 20 --no-pager -o cat >&2
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

# An agent says itself when its node is there; of a server its API is asked.
is_ready() {
    if [ "$ROLE" = agent ]; then
        nodes=
        if [ "$INIT" = systemd ]; then
            is_running
        else
            tail -n "+$((said_before + 1))" "$LOG_FILE" 2>/dev/null | grep -q '^Ready in '
        fi
        return
    fi
    nodes=$("$KNARR" kubectl --kubeconfig "$KUBECONFIG_FILE" get nodes --no-headers 2>/dev/null || true)
    printf '%s\n' "$nodes" | awk '$2 == "Ready" || $2 ~ /^Ready,/ {found = 1} END {exit !found}'
}

wait_ready() {
    waited=0 said=
    limit=${INSTALL_KNARR_WAIT:-300}
    while ! is_ready; do
        if ! is_trying; then
            [ ! -t 1 ] || echo
            last_words
            fail "knarr ends while it starts (see above)"
        fi
        [ "$waited" -lt "$limit" ] || {
            [ ! -t 1 ] || echo
            last_words
            fail "the node is not Ready after $limit s (see above); knarr goes on trying"
        }
        if [ -n "$nodes" ] || [ "$ROLE" = agent ]; then
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
    if [ "$ROLE" = agent ]; then
        say "The node is Ready."
        return
    fi
    if [ "$(readlink "$(command -v kubectl)" 2>/dev/null)" = knarr ]; then
        command=${FOLDER}kubectl
    else
        command="kubectl --kubeconfig $KUBECONFIG_FILE"
    fi
    say "The node is Ready. Try next:"
    say "  sudo $command get nodes -o wide"
    say "  sudo $command apply -f your-application.yaml"
    say "  sudo $command get all --all-namespaces"
}

# The service's folders, of the executable itself: whoever mistypes a setting is told before anything is changed.
ask_settings() {
    if [ -n "$RECORD" ]; then
        settings=$("$NEW" where --environment "$ENVIRONMENT" -- "$@") || exit 1
    else
        settings=$("$NEW" where -- "$@") || exit 1
    fi
    eval "$settings"
    if [ "$ROLE" = agent ] && [ -z "$RECORD" ] && [ "$TOKEN" = missing ] && [ ! -d "$DATA_DIR/agent/tls" ]; then
        fail "an agent needs a token to join: KNARR_TOKEN or KNARR_TOKEN_FILE (see \`knarr token create\` on the server)"
    fi
}

main() {
    ROLE=$1
    name_service "$ROLE"
    choose_bin_dir
    choose_source
    find_binary
    ask_settings "$@"
    known=false
    [ ! -f "$ETC/installed/$SERVICE" ] || known=true
    install_package
    install_packages
    (umask 022 && mkdir -p "$ETC/installed")
    install_binary
    write_service "$@"
    write_scripts
    write_record "$@"
    if ! $CHANGED && is_running && ! is_true "${INSTALL_KNARR_FORCE_RESTART:-}"; then
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
    ! is_true "${INSTALL_KNARR_SKIP_ENABLE:-}" || return 0
    enable_service
    ! is_true "${INSTALL_KNARR_SKIP_START:-}" || return 0
    start_service "$@"
    case "$* " in *" --disable-agent "*) return ;; esac
    wait_ready
    say_next
}

check_names
check_machine
find_record
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
: >"$SCRATCH/made"
with_arguments main
