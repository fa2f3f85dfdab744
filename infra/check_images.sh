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
look() { # for what must not be there; a command inside prints where it is, and where that fails so does this script
    local there
    there=$(inside "$2")
    found "$1" "$there"
}
inside() { "$ENGINE" run --rm -i --network none --user 0 --entrypoint sh "$image" -c "$1"; }
as_it_runs() { "$ENGINE" run --rm --network none --entrypoint "$1" "$image" "${@:2}"; }

for limit in "$@"; do
    image=${limit%=*}
    bytes=$("$ENGINE" image inspect "$image" --format '{{.Size}}')
    size=$((bytes / 1000000))
    user=$(as_it_runs id -u)

    [ "$size" -le "${limit#*=}" ] || found "larger than ${limit#*=} MB" "$size MB"
    [ "$user" != 0 ] || found "runs as" root
    open=$(as_it_runs find /opt/relearn -writable -not -type l -print -quit)
    found "code that whoever runs it may change" "$open"

    told=$("$ENGINE" image inspect "$image" && "$ENGINE" image history --no-trunc "$image")
    for secret in secrets/*_password secrets/*_key; do
        ! grep -qF -f "$secret" <<< "$told" || found "in its settings or history" "the content of $secret"
    done
    look "secrets in" 'cat > /tmp/known; grep -rlF -f /tmp/known /opt /etc /home /root /srv /var /usr/local || [ $? = 1 ]' \
        < <(grep -h . secrets/*_password secrets/*_key)
    look "keys, settings, history" 'find / -xdev \( -name .env -o -name .git -o -name secrets -type d \
        -o \( -name .netrc -o -name .pypirc -o -name pip.conf -o -name "id_*" -o -name "*.key" \) -size +0 \) \
        -not -path "/proc/*" -not -path "/opt/relearn/lib/*" -not -path "/run/*"'
    look "data or tests" 'find / -xdev \( -name "*-ubyte*" -o -name .relearn -o -path "*/site-packages/tests" -o -path "*/torch/test" \
        -o -name "*.npz" -not -path "*/site-packages/*" \) -not -path "/proc/*"'
    look "parts of CUDA" 'cd /opt/relearn/lib/python3*/site-packages && find . \
        \( -name "nvidia_*" -not -name "nvidia_ml_py*" -o -name "libcu[bdfrs]*.so*" -o -name "libnccl*" -o -name "libnv*.so*" \
        -o -name "libtorch_cuda*" -o -path ./triton \)'
    echo "$image: $size MB, user $user, $(inside 'ls -d /opt/relearn/lib/python3*/site-packages/*.dist-info | wc -l') packages"
done
exit "$bad"
