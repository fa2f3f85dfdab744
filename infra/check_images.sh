#!/bin/bash
# Check the built images: no secrets, no data, no CUDA, no root user, limited size.
#
#   infra/check_images.sh [IMAGE=MB…]     # default: both images; ENGINE=podman if podman built them
set -euo pipefail
cd "$(dirname "$0")/.."

ENGINE=${ENGINE:-docker}
[ $# -gt 0 ] || set -- relearn-api=1500 relearn-flows=3000
[ -s secrets/client_key ] || { echo "no secrets to search for: run infra/secrets.sh" >&2 && exit 3; }
failed=0

report() { # PROBLEM FINDINGS: prints the findings, if any
    [ -z "$2" ] || { echo "$image: $1: $(paste -sd ' ' <<< "$2" | cut -c 1-300)" && failed=1; }
}
check() { # PROBLEM COMMAND: the command prints findings inside the container; if it fails, the script fails
    local findings
    findings=$(run_as_root "$2")
    report "$1" "$findings"
}
run_as_root() { "$ENGINE" run --rm -i --network none --user 0 --entrypoint sh "$image" -c "$1"; }
run_as_user() { "$ENGINE" run --rm --network none --entrypoint "$1" "$image" "${@:2}"; }

for limit in "$@"; do
    image=${limit%=*}
    bytes=$("$ENGINE" image inspect "$image" --format '{{.Size}}')
    size=$((bytes / 1000000))
    user=$(run_as_user id -u)

    [ "$size" -le "${limit#*=}" ] || report "larger than ${limit#*=} MB" "$size MB"
    [ "$user" != 0 ] || report "runs as" root
    writable=$(run_as_user find /opt/relearn -writable -not -type l -print -quit)
    report "code that its user may change" "$writable"

    metadata=$("$ENGINE" image inspect "$image" && "$ENGINE" image history --no-trunc "$image")
    for secret in secrets/*_password secrets/*_key; do
        ! grep -qF -f "$secret" <<< "$metadata" || report "in its settings or history" "the content of $secret"
    done
    check "secrets in" 'cat > /tmp/known; grep -rlF -f /tmp/known /opt /etc /home /root /srv /var /usr/local || [ $? = 1 ]' \
        < <(grep -h . secrets/*_password secrets/*_key)
    check "keys, settings, history" 'find / -xdev \( -name .env -o -name .git -o -name secrets -type d \
        -o \( -name .netrc -o -name .pypirc -o -name pip.conf -o -name "id_*" -o -name "*.key" \) -size +0 \) \
        -not -path "/proc/*" -not -path "/opt/relearn/lib/*" -not -path "/run/*"'
    check "data or tests" 'find / -xdev \( -name "*-ubyte*" -o -name .relearn -o -path "*/site-packages/tests" -o -path "*/torch/test" \
        -o -name "*.npz" -not -path "*/site-packages/*" \) -not -path "/proc/*"'
    check "parts of CUDA" 'cd /opt/relearn/lib/python3*/site-packages && find . \
        \( -name "nvidia_*" -not -name "nvidia_ml_py*" -o -name "libcu[bdfrs]*.so*" -o -name "libnccl*" -o -name "libnv*.so*" \
        -o -name "libtorch_cuda*" -o -path ./triton \)'
    echo "$image: $size MB, user $user, $(run_as_root 'ls -d /opt/relearn/lib/python3*/site-packages/*.dist-info | wc -l') packages"
done
exit "$failed"
