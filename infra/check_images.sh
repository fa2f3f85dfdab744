#!/bin/bash
# Look into the built images for what they must not hold: secrets, data, CUDA, root, too much of anything.
#
#   infra/check_images.sh [IMAGE=MB…]     # by default both of ours; ENGINE=podman where that has built them
set -euo pipefail
cd "$(dirname "$0")/.."

ENGINE=${ENGINE:-docker}
[ $# -gt 0 ] || set -- relearn-api=1500 relearn-flows=3000
[ -s secrets/client_key ] || { echo "no secrets to look for: infra/secrets.sh makes them" >&2 && exit 3; }
bad=0

found() { # what must not be there, and where it is
    [ -z "$2" ] || { echo "$image: $1: $(paste -sd ' ' <<< "$2" | cut -c 1-300)" && bad=1; }
}
inside() { $ENGINE run --rm -i --network none --user 0 --entrypoint sh "$image" -c "$1"; }
as_it_runs() { $ENGINE run --rm --network none --entrypoint "$1" "$image" "${@:2}"; }

for limit in "$@"; do
    image=${limit%=*}
    size=$(($($ENGINE image inspect "$image" --format '{{.Size}}') / 1000000))
    user=$(as_it_runs id -u)

    [ "$size" -le "${limit#*=}" ] || found "larger than ${limit#*=} MB" "$size MB"
    [ "$user" != 0 ] || found "runs as" root
    found "code that whoever runs it may change" "$(as_it_runs find /opt/relearn -writable -not -type l -print -quit)"

    told=$($ENGINE image inspect "$image" && $ENGINE image history --no-trunc "$image")
    for secret in secrets/*_password secrets/*_key; do
        ! grep -qF -f "$secret" <<< "$told" || found "in its settings or history" "the content of $secret"
    done
    found "secrets in" "$(grep -h . secrets/*_password secrets/*_key | inside \
        'cat > /tmp/known; grep -rlF -f /tmp/known /opt /etc /home /root /srv /var /usr/local 2>/dev/null' || true)"
    found "keys, settings, history" "$(inside 'find / -xdev \( -name .env -o -name .git -o -name secrets -type d \
        -o \( -name .netrc -o -name .pypirc -o -name pip.conf -o -name "id_*" -o -name "*.key" \) -size +0 \) \
        -not -path "/proc/*" -not -path "/opt/relearn/lib/*" -not -path "/run/*"')"
    found "data or tests" "$(inside 'find / -xdev \( -name "*-ubyte*" -o -name .relearn -o -path "*/site-packages/tests" -o -path "*/torch/test" \
        -o -name "*.npz" -not -path "*/site-packages/*" \) -not -path "/proc/*"')"
    found "parts of CUDA" "$(inside 'cd /opt/relearn/lib/python3*/site-packages && find . \
        \( -name "nvidia_*" -not -name "nvidia_ml_py*" -o -name "libcu[bdfrs]*.so*" -o -name "libnccl*" -o -name "libnv*.so*" \
        -o -name "libtorch_cuda*" -o -path ./triton \)')"
    echo "$image: $size MB, user $user, $(inside 'ls -d /opt/relearn/lib/python3*/site-packages/*.dist-info | wc -l') packages"
done
exit "$bad"
