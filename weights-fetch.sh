#!/bin/sh
# Fetch a GPT-2 checkpoint (config.json, model.safetensors, tokenizer.json).
# POSIX sh; needs curl or wget. Run with --help for everything it can do.
set -eu

usage() {
    cat <<'END'
usage: ./weights-fetch.sh [MODEL] [DIR]

Fetch config.json, tokenizer.json and model.safetensors of one checkpoint.

  MODEL   gpt2 (default)   548 MB      gpt2-large   about 3.2 GB
          gpt2-medium      1.5 GB      gpt2-xl      about 6.4 GB
          distilgpt2       353 MB
  DIR     where the files go; default: weights/MODEL in the current directory
  -h, --help   show this text

A file is written to FILE.part, checked, and only then renamed to FILE. A broken
download is resumed from FILE.part, in the same run or the next one. Files that
are there and pass the checks are not fetched again. Checks: the size; the
SHA-256 where it is known for the pinned revision; the tensor table of
model.safetensors against the file's length; the shape of the JSON files.

environment:
  HF_ENDPOINT        server to ask, default https://huggingface.co; files are at
                     HF_ENDPOINT/ORG/MODEL/resolve/REVISION/FILE
  REVISION           commit (better than a branch) to fetch instead of the pinned
                     one; the known sizes and checksums then do not apply
  PATCHLENS_SHA256   expected SHA-256 of model.safetensors, 64 hex digits; used
                     instead of the known one
  PATCHLENS_FETCHER  curl or wget; default: curl if installed, otherwise wget
  PATCHLENS_TRIES    tries without progress before giving up, default 5
  PATCHLENS_WAIT     seconds between tries, default 3

exit status: 0 all files are there and checked; 1 download failed (run again to
resume); 2 wrong use or a missing tool; 3 a file failed its check; 130 stopped.
END
}

say() { printf '%s\n' "$*"; }            # results, to standard output
note() { printf '%s\n' "$*" >&2; }       # progress and problems, to standard error
fail() {                                  # fail STATUS LINE...
    status=$1; shift
    note "error: $1"; shift
    for line in "$@"; do note "  $line"; done
    exit "$status"
}

human() {                                 # human BYTES -> "548.1 MB"
    awk -v n="$1" 'BEGIN {
        if (n < 1e5) printf "%d bytes", n
        else if (n < 1e9) printf "%.1f MB", n / 1e6
        else printf "%.2f GB", n / 1e9 }'
}
size_of() { if [ -f "$1" ]; then wc -c <"$1" | tr -d ' '; else echo 0; fi; }

have_tool() { command -v "$1" >/dev/null 2>&1; }
# shellcheck disable=SC2086  # sha_tool is a command with its options
sha256_of() { $sha_tool <"$1" | cut -d ' ' -f 1; }

# The pinned revision of each checkpoint.
pinned_revision() {
    case $1 in
        gpt2) echo 607a30d783dfa663caf39e06633721c8d4cfcd7e ;;
        gpt2-medium) echo 6dcaa7a952f72f9298047fd5137cd6e4f05f41da ;;
        gpt2-large) echo 32b71b12589c2f8d625668d2335a01cac3249519 ;;
        gpt2-xl) echo 15ea56dee5df4983c59b2538573817e1667135e2 ;;
        distilgpt2) echo 2290a62682d06624634c1f46a6ad5be0f47f38aa ;;
    esac
}

# "SIZE SHA256" of a file at the pinned revision; "-" is a size that is not known,
# and no line at all means that neither is.
known() {
    case $1/$2 in
        gpt2/config.json)
            echo 665 0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4 ;;
        gpt2/model.safetensors)
            echo 548105171 248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707 ;;
        gpt2-medium/config.json)
            echo 718 ef1a44d889ad1a0acc7731c78134f1b87d2d222f110e97dd10fd4117331caf22 ;;
        gpt2-medium/model.safetensors)
            echo 1519984962 fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd ;;
        gpt2-large/config.json)
            echo - 7fccdcfd6622055342a734c663ee0b61ff4fd697f42467595df0bf4448c8c170 ;;
        gpt2-large/model.safetensors)
            echo - 5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce ;;
        gpt2-xl/model.safetensors)
            echo - 0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a ;;
        distilgpt2/config.json)
            echo 762 4ec5947c1d59fee6212cdf3b0ec1a53eac02092554c5ff0a733488cbd2c64f3a ;;
        distilgpt2/model.safetensors)
            echo 352824413 e1ff18884359fe8beb795a5f414feb85a6ce3d929ad019c0d958c039d2b94a1b ;;
        gpt2/tokenizer.json | gpt2-medium/tokenizer.json | distilgpt2/tokenizer.json)
            echo 1355256 8414cab924d8b9b33013f0d221c5862f365ee9be39c5c2bfae8a5a9e970478a6 ;;
    esac
}

# Set want_size and want_sha for FILE; empty where not known.
set_wanted() {
    want_size='' want_sha=''
    if [ "$revision" = "$pinned" ]; then
        # shellcheck disable=SC2046  # two words on purpose
        set -- "$1" $(known "$model" "$1")
        want_size=${2-} want_sha=${3-}
        [ "$want_size" != - ] || want_size=''
    fi
    if [ "$1" = model.safetensors ] && [ -n "$sha_override" ]; then
        want_size='' want_sha=$sha_override
    fi
}

# check_json PATH: begins with { and ends with }, so it is no HTML page and not cut.
check_json() {
    first=$(od -An -tx1 -N1 "$1" | tr -d ' \n')
    last=$(tail -c 64 "$1" | tr -d ' \t\r\n' | tail -c 1)
    [ "$first" = 7b ] && [ "$last" = '}' ] && return 0
    why="it is not a whole JSON object (an error page, or cut short?)"
    return 1
}

# check_safetensors PATH: the 8-byte header length is plausible, the header is JSON,
# and the tensors it lists end exactly where the file ends.
check_safetensors() {
    bytes=$(size_of "$1")
    why="it is not a safetensors file (an error page?): $(human "$bytes")"
    [ "$bytes" -gt 10 ] || return 1
    # shellcheck disable=SC2046  # eight words on purpose
    set -- "$1" $(od -An -tu1 -N8 "$1")
    [ "$(($6 + $7 + $8 + $9))" -eq 0 ] || return 1
    header=$(($2 + 256 * ($3 + 256 * ($4 + 256 * $5))))
    [ "$header" -ge 2 ] && [ "$header" -le 100000000 ] && [ "$((header + 8))" -le "$bytes" ] || return 1
    [ "$(od -An -tx1 -j8 -N1 "$1" | tr -d ' \n')" = 7b ] || return 1
    end=$(tail -c +9 "$1" | head -c "$header" | tr -d ' \t\r\n' | tr ']' '\n' |
        sed -n 's/.*"data_offsets":\[[0-9][0-9]*,\([0-9][0-9]*\)$/\1/p' | sort -n | tail -n 1)
    why="its header lists no tensors"
    [ -n "$end" ] || return 1
    why="its tensors end at byte $((header + 8 + end)), the file at byte $bytes"
    [ "$((header + 8 + end))" -eq "$bytes" ]
}

# verify PATH FILE: all checks; sets why when one fails, how when all pass.
verify() {
    found=$(size_of "$1")
    if [ -n "$want_size" ] && [ "$found" -ne "$want_size" ]; then
        why="size: expected $want_size bytes, found $found bytes"
        return 1
    fi
    case $2 in
        *.json) check_json "$1" || return 1; how="JSON braces" ;;
        *) check_safetensors "$1" || return 1; how="safetensors header" ;;
    esac
    if [ -n "$want_sha" ]; then
        found_sha=$(sha256_of "$1")
        why="SHA-256: expected $want_sha, found $found_sha"
        [ "$found_sha" = "$want_sha" ] || return 1
        how="SHA-256 matches"
    else
        how="checksum not known; checked only the ${announced:+size announced by the server and the }$how"
    fi
}

# Read a log of response headers: "STATUS TOTAL" of the last response, TOTAL being the
# size of the whole file ("-" if the server did not say).
read_headers() {
    tr -d '\r' <"$log" | awk '
        tolower($1) ~ /^http\// { status = $2; len = "-"; total = "-" }
        tolower($1) == "content-length:" { len = $2 }
        tolower($1) == "content-range:" { n = split($0, part, "/"); total = part[n] }
        END { if (total !~ /^[0-9]+$/) total = (status == 200) ? len : "-"
              print (status ? status : "000"), total }'
}

# request URL PART: one request from byte $have on; the headers go to $log.
request() {
    if [ "$fetcher" = curl ]; then
        set -- curl -sS -f -L --connect-timeout 20 --speed-limit 1 --speed-time 60 \
            -D "$log" -o "$2" "$1"
        [ "$have" -eq 0 ] || set -- "$@" -C "$have"
        "$@" 2>"$log.err" &
    else
        set -- -S -O "$2" "$1"
        [ "$have" -eq 0 ] || set -- -c "$@"
        case $(wget --version 2>/dev/null) in *GNU*) set -- -t 1 -T 60 "$@" ;; esac
        LC_ALL=C wget "$@" 2>"$log" &
    fi
    child=$!
    echo "$$ $child" >"$lock/pids"
}

# Report progress every 5 seconds until killed, or until the download has ended.
watch() {                                 # watch NAME PART
    while sleep 5 >/dev/null 2>&1 && kill -0 "$child" 2>/dev/null; do
        note "$1: $(human "$(size_of "$2")")${want_size:+ of $(human "$want_size")}"
    done
}

# try_once URL PART NAME: sets got (exit code), http (status), total and now (bytes), reason.
try_once() {
    : >"$log" && : >"$log.err"
    part_name=$2 got=0
    request "$1" "$2"
    watch "$3" "$2" &
    watcher=$!
    wait "$child" || got=$?
    kill -KILL "$watcher" 2>/dev/null || : # a TERM may be lost while it starts
    wait "$watcher" 2>/dev/null || :
    child='' watcher=''
    # shellcheck disable=SC2046  # two words on purpose
    set -- $(read_headers)
    http=$1 total=$2
    now=$(size_of "$part_name")
    [ "$now" -gt 0 ] || rm -f "$part_name"
    case $fetcher in
        curl) reason=$(tail -n 1 "$log.err") ;;
        *) reason=$(grep -v '^ ' "$log" | grep . | tail -n 1) || : ;;
    esac
    reason="HTTP status $http, $fetcher exit code $got${reason:+: $reason}"
}

# Errors that another try cannot mend.
stop_if_hopeless() {                      # stop_if_hopeless URL NAME
    case $http in
        401 | 403) fail 1 "$2: the server refuses access (HTTP status $http)" "url: $1" \
            "open the url in a browser, or set HF_ENDPOINT to a mirror" ;;
        408 | 416 | 425 | 429) ;;
        4??) fail 1 "$2: not found (HTTP status $http)" "url: $1" \
            "check HF_ENDPOINT and REVISION; unset them to use the pinned revision" ;;
    esac
    case $fetcher$got in
        curl23 | wget3) fail 1 "$2: cannot write to $dir" "$reason" \
            "free some space, then run again to resume" ;;
    esac
}

# Is PART whole, as far as the last answer tells?
is_whole() {
    if [ "$http" = 416 ]; then [ "$now" -gt 0 ] && [ "$now" = "$total" ]
    else [ "$got" -eq 0 ] && { [ "$total" = - ] || [ "$now" = "$total" ]; }
    fi
}

# download URL PART NAME: fetch, with retries and resuming, until PART is whole.
download() {
    left=$tries
    while :; do
        have=$(size_of "$2")
        if [ "$have" -gt 0 ] && [ "$have" = "$want_size" ]; then return 0; fi
        if [ "$have" -gt 0 ]; then note "$3: resuming at $(human "$have")"; fi
        try_once "$1" "$2" "$3"
        if is_whole; then announced=${total#-}; return 0; fi
        stop_if_hopeless "$1" "$3"
        left=$((left - 1))
        if [ "$http" = 206 ] && [ "$now" -gt "$have" ]; then
            left=$tries                   # progress: the count starts again
        elif [ "$have" -gt 0 ] && { [ "$http" = 416 ] || [ "$http" = 200 ]; }; then
            note "$3: the server did not resume; starting over"
            rm -f "$2"
            left=$((left + 1))            # from 0 bytes this cannot come again
            continue
        fi
        [ "$left" -gt 0 ] || fail 1 "$3: download failed" "$reason" "url: $1" \
            "have $(human "$now"); check the network, then run the same command again to resume"
        note "$3: broken off at $(human "$now"), trying again in $pause s ($reason)"
        sleep "$pause"
    done
}

need_space() {                            # need_space NAME PART
    [ -n "$want_size" ] || return 0
    free=$(df -Pk "$dir" 2>/dev/null | awk 'NR == 2 { print $4 }')
    missing=$(($(size_of "$2") + ${free:-0} * 1024 - want_size))
    [ -z "$free" ] || [ "$missing" -ge 0 ] ||
        fail 1 "$1: not enough space in $dir: $(human "$((-missing))") more needed" \
            "free some space or choose another DIR"
}

# fetch FILE: skip it if it is there and good, otherwise download, verify, rename.
fetch() {
    target=$dir/$1 part=$dir/$1.part announced=''
    url=$endpoint/$repo/resolve/$revision/$1
    set_wanted "$1"
    if [ -e "$target" ]; then
        verify "$target" "$1" || fail 3 "$target is there but failed its check" "$why" \
            "it was left as it is; delete it and run again, or choose another DIR"
        say "$1: already there, $(human "$found"), $how"
        return 0
    fi
    note "$1: fetching${want_size:+ $(human "$want_size")} from $url"
    need_space "$1" "$part"
    download "$url" "$part" "$1"
    if ! verify "$part" "$1"; then
        mv -f "$part" "$target.bad"
        fail 3 "$1: the download failed its check" "$why" "url: $url" \
            "kept as $target.bad; delete it and run again, or use another HF_ENDPOINT"
    fi
    mv -f "$part" "$target"
    say "$1: ok, $(human "$found"), $how"
}

holds_files() {
    for file in "$dir"/*.json "$dir"/*.part "$dir"/*.safetensors; do
        if [ -e "$file" ]; then return 0; fi
    done
    return 1
}

# Make DIR and lock it; DIR/SOURCE says which checkpoint it holds, so that two never mix.
claim_dir() {
    mkdir -p "$dir" || fail 1 "cannot make $dir" "choose another DIR"
    # shellcheck disable=SC2013  # words: the ids of a script and of its curl or wget
    for pid in $(cat "$dir/.lock/pids" 2>/dev/null); do
        if kill -0 "$pid" 2>/dev/null; then
            fail 1 "$dir is in use by another run (process $pid)" "wait, or choose another DIR"
        fi
    done
    rm -rf "$dir/.lock"                   # left by a run that was killed
    mkdir "$dir/.lock" || fail 1 "cannot write to $dir" "choose another DIR"
    lock=$dir/.lock log=$dir/.lock/headers
    echo $$ >"$lock/pids"
    line="$repo $revision"
    if [ -f "$dir/SOURCE" ] && [ "$(cat "$dir/SOURCE")" != "$line" ] && holds_files; then
        fail 2 "$dir holds another checkpoint: $(cat "$dir/SOURCE")" \
            "wanted: $line" "choose another DIR, or delete that one"
    fi
    printf '%s\n' "$line" >"$dir/SOURCE"
}

clean_up() {
    [ -z "${child-}" ] || kill "$child" 2>/dev/null || :
    [ -z "${watcher-}" ] || kill -KILL "$watcher" 2>/dev/null || :
    [ -z "${lock-}" ] || rm -rf "$lock"
}

choose_tools() {
    fetcher=${PATCHLENS_FETCHER-}
    case $fetcher in
        '') if have_tool curl; then fetcher=curl; else fetcher=wget; fi ;;
        curl | wget) ;;
        *) fail 2 "PATCHLENS_FETCHER is '$fetcher'" "it must be curl or wget" ;;
    esac
    have_tool "$fetcher" ||
        fail 2 "$fetcher is not installed" "install curl or wget, for example: apt-get install curl"
    if have_tool sha256sum; then sha_tool=sha256sum
    elif have_tool shasum; then sha_tool='shasum -a 256'
    elif have_tool openssl; then sha_tool='openssl dgst -sha256 -r'
    else fail 2 "no SHA-256 tool is installed" "install sha256sum (coreutils), shasum or openssl"
    fi
}

read_arguments() {
    case ${1-} in
        -h | --help) usage; exit 0 ;;
        -*) fail 2 "unknown option '$1'" "try: ./weights-fetch.sh --help" ;;
    esac
    [ $# -le 2 ] || fail 2 "too many arguments" "try: ./weights-fetch.sh --help"
    model=${1:-gpt2}
    case $model in
        gpt2 | gpt2-medium | gpt2-large | gpt2-xl) repo=openai-community/$model ;;
        distilgpt2) repo=distilbert/distilgpt2 ;;
        *) fail 2 "unknown model '$model'" \
            "known models: gpt2 gpt2-medium gpt2-large gpt2-xl distilgpt2" ;;
    esac
    dir=${2:-weights/$model}
    case $dir in -*) dir=./$dir ;; esac
    endpoint=${HF_ENDPOINT:-https://huggingface.co}
    endpoint=${endpoint%/}
    pinned=$(pinned_revision "$model")
    revision=${REVISION:-$pinned}
    tries=${PATCHLENS_TRIES:-5} pause=${PATCHLENS_WAIT:-3}
    case $tries:$pause in
        *[!0-9:]* | 0:*) fail 2 "PATCHLENS_TRIES and PATCHLENS_WAIT must be whole numbers" \
            "PATCHLENS_TRIES must be at least 1" ;;
    esac
    sha_override=$(printf '%s' "${PATCHLENS_SHA256-}" | tr 'A-F' 'a-f')
    case $sha_override in
        *[!0-9a-f]*) fail 2 "PATCHLENS_SHA256 is not a SHA-256 (64 hex digits)" ;;
    esac
    [ "${#sha_override}" -eq 0 ] || [ "${#sha_override}" -eq 64 ] ||
        fail 2 "PATCHLENS_SHA256 has ${#sha_override} digits, a SHA-256 has 64"
}

main() {
    read_arguments "$@"
    choose_tools
    trap clean_up EXIT
    trap 'note "stopped; run the same command again to resume"; exit 130' INT TERM HUP
    claim_dir
    note "model:    $model ($repo)"
    note "revision: $revision"
    note "from:     $endpoint (with $fetcher)"
    note "to:       $dir"
    for file in config.json tokenizer.json model.safetensors; do fetch "$file"; done
    say "done: $dir has all 3 files of $model"
}

main "$@"
