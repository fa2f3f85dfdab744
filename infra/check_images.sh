#!/bin/bash
# Look into the built images for what they must not hold: secrets, data, CUDA, root, too much of anything.
#
#   infra/check_images.sh                # ENGINE=podman where that has built them
set -euo pipefail
cd "$(dirname "$0")/.."

ENGINE=${ENGINE:-docker}
declare -A LIMIT=([relearn-api]=1500 [relearn-flows]=3000) # MB
bad=0

found() { # what must not be there, and where it is
    [ -z "$2" ] || { echo "$image: $1: $(paste -sd ' ' <<< "$2" | cut -c 1-300)" && bad=1; }
}
inside() { $ENGINE run --rm -i --network none --user 0 --entrypoint sh "$image" -c "$1"; }

for image in "${!LIMIT[@]}"; do
    size=$(($($ENGINE image inspect "$image" --format '{{.Size}}') / 1000000))
    [ "$size" -le "${LIMIT[$image]}" ] || found "larger than ${LIMIT[$image]} MB" "$size MB"

    user=$($ENGINE run --rm --network none --entrypoint id "$image" -u)
    [ "$user" != 0 ] || found "runs as" root
    found "files of ours that whoever runs it may change" \
        "$($ENGINE run --rm --network none --entrypoint find "$image" /opt/relearn -writable -print -quit)"

    told=$($ENGINE image inspect "$image" && $ENGINE image history --no-trunc "$image")
    for secret in secrets/*; do # each value, in what the image tells of itself and in its files
        [ "$secret" != secrets/api_keys ] || continue
        found "the content of $secret, in its settings or history" "$(grep -cF -f "$secret" <<< "$told" | grep -v '^0$' || true)"
    done
    found "secrets in files" "$(cat secrets/*_password secrets/*_key | inside \
        'cat > /tmp/known; grep -rlF -f /tmp/known /opt /etc /home /root /srv /var /usr/local 2>/dev/null' || true)"
    found "keys, or settings with passwords" "$(inside 'find / -xdev \( -name .env -o -name .git -o -name secrets -type d \
        -o \( -name .netrc -o -name .pypirc -o -name pip.conf -o -name "id_*" -o -name "*.key" \) -size +0 \) \
        -not -path "/proc/*" -not -path "/opt/relearn/lib/*" -not -path "/run/*"' || true)"
    found "data or tests" "$(inside 'find / -xdev \( -name "*-ubyte*" -o -name "*.npz" -o -name .relearn \
        -o -path "/opt/relearn/lib/*/site-packages/tests" -o -path "*/torch/test" \) -not -path "/proc/*"' |
        grep -v '/site-packages/' || true)"
    found "parts of CUDA" "$(inside 'cd /opt/relearn/lib/python3*/site-packages && find . \( -name "nvidia_*" -not -name "nvidia_ml_py*" \
        -o -name "libcu[bdfrs]*.so*" -o -name "libnccl*" -o -name "libnv*.so*" -o -name "libtorch_cuda*" -o -path ./triton \)' || true)"
    echo "$image: $size MB, user $user, $(inside 'ls -d /opt/relearn/lib/python3*/site-packages/*.dist-info | wc -l') packages"
done
exit "$bad"
