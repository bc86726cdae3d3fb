#!/bin/sh
# Fetch a GPT-2 checkpoint (config.json, model.safetensors, tokenizer.json).
# POSIX sh; needs curl or wget. Run with --help for everything it can do.
set -eu
LC_ALL=C
export LC_ALL                             # ranges of letters, and the texts of curl and wget

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
download is resumed from FILE.part, in the same run or the next one, unless the
server's file has changed since. Files that are there and pass the checks are not
fetched again. Checks: the size; the SHA-256 where it is known for the pinned
revision; the tensor table of model.safetensors against the file's length; that
the other files are JSON, with the fields expected where no SHA-256 is known.
A download is stopped once it is longer than the file can be. Runs for the same DIR
take turns, also those in other containers and on other hosts that share it.

environment:
  HF_ENDPOINT        server to ask, default https://huggingface.co; files are at
                     HF_ENDPOINT/ORG/MODEL/resolve/REVISION/FILE; a name and a
                     password in it are used, but not shown
  REVISION           commit (better than a branch) to fetch instead of the pinned
                     one; the known sizes and checksums then do not apply
  PATCHLENS_SHA256   expected SHA-256 of model.safetensors, 64 hex digits; used
                     instead of the known one
  PATCHLENS_FETCHER  curl or wget; default: curl if installed, otherwise wget
  PATCHLENS_TRIES    tries without progress before giving up, default 5
  PATCHLENS_WAIT     seconds between tries, default 3
  PATCHLENS_STALE    seconds without a sign of life after which a run in another
                     container or on another host counts as dead, default 60

exit status: 0 all files are there and checked; 1 download failed (run again to
resume); 2 wrong use or a missing tool; 3 a file failed its check; 130 stopped.
END
}

told=''                                   # set once a failure has been explained

say() { printf '%s\n' "$*"; }            # results, to standard output
note() { printf '%s\n' "$*" >&2; }       # progress and problems, to standard error
fail() {                                  # fail STATUS LINE...
    status=$1 told=yes; shift
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

# shown URL: without its name and password.
shown() {
    case $1 in
        *//*@*) say "${1%%//*}//***@${1##*@}" ;;
        *) say "$1" ;;
    esac
}

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

# The most bytes that FILE can have at any revision: of the weights twice those in float32.
most_bytes() {
    case $model/$1 in
        */*.json) echo 64000000 ;;
        gpt2-xl/*) echo 13000000000 ;;
        gpt2-large/*) echo 6500000000 ;;
        gpt2-medium/*) echo 3100000000 ;;
        *) echo 1100000000 ;;
    esac
}

# Set want_size and want_sha for FILE, empty where not known, and limit, the most bytes of it.
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
    limit=${want_size:-$(most_bytes "$1")}
}

# json_types <TEXT: one line for each of its outer two levels of fields, "NAME TYPE" or
# "NAME.NAME TYPE", the type being s(tring), n(umber), l(iteral), { or [. Fails if the text is
# not one whole JSON object. Quotes separate awk's records, so strings and the rest alternate.
json_types() {
    awk '
        BEGIN { RS = "\""; want = "value" }
        function name(   i, path) {
            for (i = 1; i <= depth && i <= 2; i++) path = path (i > 1 ? "." : "") key[i]
            return path
        }
        function value(type) {            # a value begins; arrays have no names
            if (want != "value" && want != "value or end") bad = 1
            if (depth == 0 && type != "{") bad = 1
            if (depth == 1 || (depth == 2 && open[1] open[2] == "{{")) print name(), type
            want = depth ? "comma or end" : "nothing"
        }
        function opens(c) {
            value(c)
            open[++depth] = c
            want = (c == "{") ? "key or end" : "value or end"
        }
        function closes(c) {
            if (depth == 0 || open[depth] != c || want !~ /or end$/) { bad = 1; return }
            want = --depth ? "comma or end" : "nothing"
        }
        function scalar(text) {
            if (text ~ /^(true|false|null)$/) value("l")
            else if (text ~ /^-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][-+]?[0-9]+)?$/) value("n")
            else bad = 1
        }
        function string(text) {
            if (want ~ /^key/) { if (depth <= 2) key[depth] = text; want = "colon" }
            else value("s")
        }
        function outside(text,   i, c, word) {
            gsub(/[ \t\r\n]+/, " ", text)
            for (i = 1; i <= length(text) + 1 && !bad; i++) {
                c = substr(text, i, 1)
                if (c != "" && index("{}[],: ", c) == 0) { word = word c; continue }
                if (word != "") { scalar(word); word = "" }
                if (c == "{" || c == "[") opens(c)
                else if (c == "}") closes("{")
                else if (c == "]") closes("[")
                else if (c == ":") { if (want != "colon") bad = 1; want = "value" }
                else if (c == ",") {
                    if (want != "comma or end") bad = 1
                    want = (open[depth] == "{") ? "key" : "value"
                }
            }
        }
        bad { exit }
        !within { outside($0); within = 1; text = ""; next }
        {
            text = text $0
            match($0, /\\*$/)
            if (RLENGTH % 2) text = text RS # this quote is part of the string
            else { string(text); within = 0 }
        }
        END { exit bad || want != "nothing" }'
}

# check_json PATH FILE: one whole JSON object; where no hash is known, also the fields that
# FILE always has, so that an error message in JSON does not pass for it.
check_json() {
    why="it is not a whole JSON object (an error page, or cut short?)"
    types=$(json_types <"$1") || return 1
    [ -z "$want_sha" ] || return 0
    case $2 in
        config.json) fields='n_layer:n n_head:n n_embd:n vocab_size:n' ;;
        *) fields='model:{ model.vocab:{ model.merges:[' ;;
    esac
    for field in $fields; do
        case ${field#*:} in n) type='a number' ;; \[) type='an array' ;; *) type='an object' ;; esac
        why="it has no field ${field%:*} that is $type (an error message of the server?)"
        printf '%s\n' "$types" | grep -qxF "${field%:*} ${field#*:}" || return 1
    done
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
        *.json) check_json "$1" "$2" || return 1; how="JSON fields" ;;
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

# Read a log of response headers: "STATUS TOTAL VALIDATOR" of the last response, TOTAL being
# the size of the whole file ("-" if the server did not say), VALIDATOR what tells its version
# for If-Range: a strong ETag, else the date of its last change, else nothing.
read_headers() {
    tr -d '\r' <"$1" | awk '
        function field() { sub(/^[^:]*:[ \t]*/, ""); return $0 }
        tolower($1) ~ /^http\// { status = $2; len = total = "-"; etag = date = "" }
        tolower($1) == "content-length:" { len = $2 }
        tolower($1) == "content-range:" { n = split($0, part, "/"); total = part[n] }
        tolower($1) == "etag:" && $2 ~ /^"/ { etag = field() }
        tolower($1) == "last-modified:" { date = field() }
        END { if (total !~ /^[0-9]+$/) total = (status == 200) ? len : "-"
              print (status ? status : "000"), total, (etag != "" ? etag : date) }'
}

# set_answer LOG: http (status), total (bytes or "-") and version (validator) of LOG's answer.
set_answer() {
    http=000 total=- version=''
    [ -f "$1" ] || return 0
    answer=$(read_headers "$1")
    http=${answer%% *} answer=${answer#* }
    total=${answer%% *} version=${answer#* }
}

# The largest file that a child may write, in blocks of 512 bytes: more than $limit, so that too
# long an answer shows, and at least 1 MiB, since the headers and messages are files as well.
block_limit() {
    if [ "$limit" -lt 1048576 ]; then echo 2048; else echo $((limit / 512 + 1)); fi
}

# request URL PART: one request from byte $have on; the headers go to $log. $run learns of the
# child before it begins to write, so that it counts even if this script is killed. The system
# makes it stop at block_limit, however fast the bytes come; with XFSZ ignored, as an error that
# curl and wget report. Where ulimit cannot do that, watch does, less promptly.
request() {
    if [ "$fetcher" = curl ]; then
        set -- --proto =http,https -sS -f -g -L --connect-timeout 20 --speed-limit 1 \
            --speed-time 60 -D "$log" -o "$2" --url "$1"
        if [ "$have" -gt 0 ]; then
            set -- "$@" -C "$have"
            [ -z "$validator" ] || set -- "$@" -H "If-Range: $validator"
        fi
    else
        set -- -S -O "$2" -- "$1"
        if [ "$have" -gt 0 ]; then
            [ -z "$validator" ] || set -- --header "If-Range: $validator" "$@"
            set -- -c "$@"
        fi
        case $(wget --version 2>/dev/null) in *GNU*) set -- -t 1 -T 60 "$@" ;; esac
    fi
    if [ "$fetcher" = curl ]; then errors=$log.err; else errors=$log; fi
    # shellcheck disable=SC2016  # for the inner shell
    sh -c 'echo $$ >>"$0" || exit; { ulimit -f "$1"; trap "" XFSZ; } 2>/dev/null
        shift && exec "$@"' "$run" "$(block_limit)" "$fetcher" "$@" 2>"$errors" &
    child=$!
}

# Report progress every 5 seconds until killed, or until the download has ended or is too long.
watch() {                                 # watch NAME PART
    seconds=0
    while sleep 1 >/dev/null 2>&1 && kill -0 "$child" 2>/dev/null; do
        arrived=$(size_of "$2") seconds=$((seconds + 1))
        [ "$arrived" -le "$limit" ] || kill "$child" 2>/dev/null || :
        [ "$((seconds % 5))" -ne 0 ] ||
            note "$1: $(human "$arrived")${want_size:+ of $(human "$want_size")}"
    done
}

# try_once URL PART NAME: sets got (exit code), now (bytes), reason, and what set_answer sets.
try_once() {
    hold_turn
    printf '' >"$log" && printf '' >"$log.err"
    got=0
    request "$1" "$2"
    watch "$3" "$2" &
    watcher=$!
    wait "$child" 2>/dev/null || got=$?
    kill -KILL "$watcher" 2>/dev/null || : # a TERM may be lost while it starts
    wait "$watcher" 2>/dev/null || :
    child='' watcher=''
    hold_turn
    set_answer "$log"
    now=$(size_of "$2")
    [ "$now" -gt 0 ] || rm -f "$2"
    case $fetcher in
        curl) reason=$(tail -n 1 "$log.err") ;;
        *) reason=$(grep -v '^ ' "$log" | grep . | tail -n 1) || : ;;
    esac
    reason=$(printf '%s' "$reason" | sed 's|//[^/ ]*@|//***@|g; s|\(//[^ ?]*\)?[^ ]*|\1?...|g')
    reason="HTTP status $http, $fetcher exit code $got${reason:+: $reason}"
}

# Errors that another try cannot mend.
stop_if_hopeless() {                      # stop_if_hopeless URL NAME
    case $http in
        401 | 403) fail 1 "$2: the server refuses access (HTTP status $http)" "url: $(shown "$1")" \
            "open the url in a browser, or set HF_ENDPOINT to a mirror" ;;
        408 | 416 | 425 | 429) ;;
        4??) fail 1 "$2: not found (HTTP status $http)" "url: $(shown "$1")" \
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

# Remember the version of which PART has the beginning: that of the answer that began it.
keep_version() {                          # keep_version PART
    [ "$http" = 200 ] && [ -s "$1" ] || return 0
    if [ -n "$version" ]; then printf '%s\n' "$version" >"$1.version"; else rm -f "$1.version"; fi
}

# Does PART hold bytes of two versions now? Sets anew, the reason to start over.
is_mixed() {
    [ "$have" -gt 0 ] || return 1
    if [ "$http" = 200 ]; then            # wget keeps its bytes and skips as many of the new ones
        anew="the server sent the file from its beginning"
        [ -z "$validator" ] || [ "$validator" != "$version" ]
        return
    fi
    anew="the server's file has changed"
    [ -n "$validator" ] && [ -n "$version" ] || return 1
    case $validator in \"*) kind='etag' ;; *) kind='date' ;; esac
    case $version in \"*) [ $kind = etag ] ;; *) [ $kind = date ] ;; esac &&
        [ "$validator" != "$version" ]
}

# Bytes beyond the end are no part of the file, so nothing is kept to be resumed.
refuse_excess() {                         # refuse_excess URL PART NAME
    rm -f "$2" "$2.version"
    expected="$limit bytes"
    [ -n "$want_size" ] || expected="at most $expected"
    fail 3 "$3: the server sends more than the file can have" \
        "size: expected $expected, found $now bytes and no end" "url: $(shown "$1")" \
        "the download was stopped and deleted; use another HF_ENDPOINT"
}

start_over() {                            # start_over NAME PART WHY
    note "$1: $3; starting over"
    rm -f "$2" "$2.version"
}

# set_start NAME PART: have, and the validator of these bytes. Bytes of an unknown version are
# only kept where a checksum will tell whether they fit the rest.
set_start() {
    have=$(size_of "$2") validator=''
    [ "$have" -gt 0 ] || { rm -f "$2.version"; return 0; }
    [ ! -s "$2.version" ] || IFS= read -r validator <"$2.version"
    if [ "$have" -gt "$limit" ]; then
        start_over "$1" "$2" "$have bytes are there of a file of at most $limit bytes"
    elif [ -z "$validator$want_sha" ]; then
        start_over "$1" "$2" "no telling whether the server still has the file that was begun"
    else return 0
    fi
    have=0 validator=''
}

# download URL PART NAME: fetch, with retries and resuming, until PART is whole.
download() {
    left=$tries log=$2.headers
    if [ ! -e "$2.version" ]; then        # a run may have been killed before it kept that
        set_answer "$log"
        keep_version "$2"
    fi
    while :; do
        set_start "$3" "$2"
        if [ "$have" -gt 0 ] && [ "$have" = "$want_size" ]; then return 0; fi
        if [ "$have" -gt 0 ]; then note "$3: resuming at $(human "$have")"; fi
        try_once "$1" "$2" "$3"
        left=$((left - 1))
        if is_mixed; then
            start_over "$3" "$2" "$anew"
            [ "$http" != 200 ] || left=$((left + 1)) # from 0 bytes this cannot come again
            [ "$left" -gt 0 ] || fail 1 "$3: the server's file keeps changing" "url: $(shown "$1")"
            continue
        fi
        keep_version "$2"
        if is_whole; then announced=${total#-}; return 0; fi
        if [ "$now" -gt "$limit" ]; then
            [ "$have" -gt 0 ] || refuse_excess "$1" "$2" "$3"
            start_over "$3" "$2" "the server sent more than the rest of the file"
            continue                      # from 0 bytes this cannot come again
        fi
        stop_if_hopeless "$1" "$3"
        if [ "$http" = 206 ] && [ "$now" -gt "$have" ]; then
            left=$tries                   # progress: the count starts again
        elif [ "$have" -gt 0 ] && { [ "$http" = 416 ] || [ "$http" = 200 ]; }; then
            start_over "$3" "$2" "the server did not resume"
            left=$((left + 1))            # nor can this
            continue
        fi
        [ "$left" -gt 0 ] || fail 1 "$3: download failed" "$reason" "url: $(shown "$1")" \
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
    note "$1: fetching${want_size:+ $(human "$want_size")} from $(shown "$url")"
    need_space "$1" "$part"
    download "$url" "$part" "$1"
    rm -f "$part.version" "$part.copy" "$part.headers" "$part.headers.err"
    if ! verify "$part" "$1"; then
        mv -f "$part" "$target.bad"
        fail 3 "$1: the download failed its check" "$why" "url: $(shown "$url")" \
            "kept as $target.bad; delete it and run again, or use another HF_ENDPOINT"
    fi
    hold_turn
    mv -f "$part" "$target"
    say "$1: ok, $(human "$found"), $how"
}

holds_files() {
    for file in "$dir"/*.json "$dir"/*.part "$dir"/*.safetensors; do
        if [ -e "$file" ]; then return 0; fi
    done
    return 1
}

# Runs for one DIR take turns, by tickets as in a shop (Lamport's bakery): files in DIR/.lock
# named ticket.NUMBER.ID. Whoever takes a number shows choosing.ID meanwhile, and the lowest
# number is served, at equal numbers the lowest ID. The ID is no PID, since two containers or
# hosts that share DIR may have the same PIDs; mktemp makes it, with the file run.ID. That
# says "REALM PID HOST", then gets a line with the PID of each curl or wget, which may outlive
# its run, and an empty line every 2 seconds. A realm is where a PID means the same process: there
# a run lives while its processes do. Of any other run, only that run.ID grows shows that it lives.

# Set realm, "-" where there is no telling: the PID namespace (its number is given to another one
# later, with another first process) of this boot of this host, or this boot of a Mac.
find_realm() {
    realm=-
    # /proc may be that of another namespace, or hide what other users run, process 1 above all.
    # shellcheck disable=SC2016  # for the inner shell
    if [ -n "$(sh -c 'echo $$ && exec readlink /proc/self' | uniq -d)" ] &&
        boot=$(cat /proc/sys/kernel/random/boot_id) && space=$(readlink /proc/self/ns/pid) &&
        born=$(sed 's/.*) //' /proc/1/stat | cut -d ' ' -f 20) && [ -n "$born" ]
    then realm=proc:$boot:$(printf '%s' "$space" | tr -cd 0-9):$born
    elif boot=$(sysctl -n kern.bootsessionuuid) && [ -n "$boot" ]
    then realm=ps:$boot
    fi
} 2>/dev/null

# is_running PID...: does one of them, of this realm, run? One that has ended but still awaits
# its parent does not.
is_running() {
    for pid in "$@"; do
        case $realm in
            proc:*) [ -d "/proc/$pid" ] && ! grep -q '^State:[[:space:]]*[XZ]' "/proc/$pid/status" ;;
            ps:*) ps -p "$pid" ;;
            *) kill -0 "$pid" ;;
        esac >/dev/null 2>&1 && return 0
    done
    return 1
}

# is_alive ID: the run with this ID; sets its_realm. Where PIDs do not tell, count in signs, for
# how many looks (of a second or more) run.ID has had the same size: "ID SIZE LOOKS" each. Times of
# files are not compared, since clocks differ. run.ID is read once, for it may just be written.
is_alive() {
    its_pids=$(awk 'NR == 1 { print $1, $2; next } NF' "$queue/run.$1" 2>/dev/null) || :
    its_realm=${its_pids%% *} its_pids=${its_pids#* }
    if [ "$realm" != - ] && [ "$its_realm" = "$realm" ]; then
        # shellcheck disable=SC2086  # words
        is_running $its_pids
        return
    fi
    sign="$1 $(size_of "$queue/run.$1")"
    looks=$(printf '%s\n' "$signs" | sed -n "s/^$sign //p")
    signs=$(printf '%s\n' "$signs" | grep -v "^$1 ") || :
    signs="$signs
$sign $((${looks:-0} + 1))"
    [ "${looks:-0}" -lt "$stale" ]
}

# Give a sign of life every 2 seconds, while this script or a download that it began runs.
beat() {
    # shellcheck disable=SC2046  # words
    while sleep 2 && [ -e "$run" ] &&
        is_running $$ $(awk 'NR > 1 && NF' "$run"); do echo >>"$run" || :; done
    forget "$id"
    rmdir "$queue"
}

forget() { rm -f "$queue/choosing.$1" "$queue"/ticket.*."$1" "$queue/run.$1"; }

# Remove what dead runs have left. The name "doubt" tells the next to be served, whoever that is,
# that one of them may have been paused only; see leave_parts.
forget_dead() {
    known_ids=' '
    for file in "$queue"/*.*; do
        its_id=${file##*.}
        case $known_ids in *" $its_id "*) continue ;; esac
        known_ids="$known_ids$its_id "
        if [ "$its_id" = "$id" ] || [ "$its_id" = '*' ] || is_alive "$its_id"; then continue; fi
        [ "$realm" != - ] && [ "$its_realm" = "$realm" ] || printf '' >"$queue/doubt" || continue
        forget "$its_id"
    done
}

enter_queue() {
    id=''
    mkdir -p "$queue" && run=$(mktemp "$queue/run.XXXXXX") || return 1
    id=${run##*.}
    # Another user's run must be able to read it too; mktemp does not let it.
    chmod a+r "$run" && printf '%s\n' "$realm $$ $(uname -n)" >>"$run" &&
        printf '' >"$queue/choosing.$id"
} 2>/dev/null

take_ticket() {
    attempts=0
    until enter_queue; do                 # another run may just have removed the folder
        [ -z "$id" ] || forget "$id"
        attempts=$((attempts + 1))
        [ "$attempts" -lt 20 ] || fail 1 "cannot write to $dir" "choose another DIR"
    done
    beat </dev/null >/dev/null 2>&1 &
    beater=$!
    number=0
    for file in "$queue"/ticket.*; do
        taken=${file#"$queue/ticket."} taken=${taken%.*}
        case $taken in '' | *[!0-9]*) continue ;; esac
        [ "$taken" -le "$number" ] || number=$taken
    done
    ticket=$queue/ticket.$((number + 1)).$id
    printf '' >"$ticket"
    rm -f "$queue/choosing.$id"
}

# The ID of a run that is served before this one, or nothing. Who chooses is looked for first:
# whoever no longer does then has a ticket.
served_first() {
    for file in "$queue"/choosing.*; do
        case ${file##*.} in '*' | "$id") ;; *) say "${file##*.}"; return 0 ;; esac
    done
    first=$(for file in "$queue"/ticket.*.*; do say "${file##*/}"; done |
        sort -t . -k 2,2n -k 3,3 | head -n 1)
    [ "$first" = "${ticket##*/}" ] || say "${first##*.}"
}

# The run with this ID, for people: "process PID", and where that is.
described() {
    who='' pid='' host=''
    read -r who pid host 2>/dev/null <"$queue/run.$1" || :
    if [ "$realm" != - ] && [ "$who" = "$realm" ]; then say "process $pid"
    else say "process ${pid:-?} in another container or on another host: ${host:-?}"; fi
}

wait_for_turn() {
    waited=0 signs=''
    forget_dead
    while hold_turn && other=$(served_first) && [ -n "$other" ]; do
        # A number is chosen in no time; later on, say so every minute.
        [ "$((waited % 60))" -ne 1 ] || note "waiting for another run ($(described "$other"))" \
            "that uses $dir; if it is none of yours, stop this and delete $queue"
        sleep 1
        waited=$((waited + 1))
        forget_dead
    done
}

# Stop if another run took this one for dead, because it was paused; nothing is written from then on.
hold_turn() {
    [ -e "$ticket" ] || fail 1 "another run has taken over $dir" \
        "this one had given no sign of life, or $queue was deleted" "run the same command again"
}

# Should a run that was taken for dead wake up, its curl or wget goes on writing to the file that
# it opened; let that be another file than the one that this run checks and renames.
leave_parts() {
    for file in "$dir"/*.part; do
        [ -e "$file" ] || continue
        if cp "$file" "$file.copy"; then mv -f "$file.copy" "$file"
        else start_over "$file" "$file" "no space for a copy"; rm -f "$file.copy"; fi
    done
    rm -f "$queue/doubt"
}

# Make DIR and lock it; DIR/SOURCE says which checkpoint it holds, so that two never mix.
claim_dir() {
    mkdir -p "$dir" || fail 1 "cannot make $dir" "choose another DIR"
    queue=$dir/.lock
    find_realm
    take_ticket
    wait_for_turn
    [ ! -e "$queue/doubt" ] || leave_parts
    line="$repo $revision"
    if [ -f "$dir/SOURCE" ] && [ "$(cat "$dir/SOURCE")" != "$line" ] && holds_files; then
        fail 2 "$dir holds another checkpoint: $(cat "$dir/SOURCE")" \
            "wanted: $line" "choose another DIR, or delete that one"
    fi
    printf '%s\n' "$line" >"$dir/SOURCE"
}

clean_up() {
    status=$?
    [ -z "${child-}" ] || kill "$child" 2>/dev/null || :
    for helper in "${watcher-}" "${beater-}"; do
        [ -z "$helper" ] || { kill -KILL "$helper" && wait "$helper"; } 2>/dev/null || :
    done
    [ -z "${log-}" ] || [ ! -e "$ticket" ] || rm -f "$log" "$log.err"
    [ -z "${id-}" ] || forget "$id"
    [ -z "${queue-}" ] || rmdir "$queue" 2>/dev/null || : # others may be waiting
    [ "$status" -eq 0 ] || [ -n "$told" ] ||
        note "error: stopped by something unforeseen (status $status); please report this"
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
    case $endpoint in                     # not shown: it may hold a password
        *[!]A-Za-z0-9/:._~%@!+=,[-]*) fail 2 "HF_ENDPOINT has a character that is not allowed" \
            "write it as %XX; a query (?) or a fragment (#) cannot be part of it" ;;
        *@*@* | *//*/*@*) fail 2 "HF_ENDPOINT has an @ beyond the one before the server's name" \
            "write @ and / in a name or a password as %40 and %2F" ;;
        http://?* | https://?*) ;;
        *) fail 2 "HF_ENDPOINT does not begin with http:// or https://" ;;
    esac
    pinned=$(pinned_revision "$model")
    revision=${REVISION:-$pinned}
    case /$revision/ in
        *[!A-Za-z0-9./_%-]* | */../*)
            fail 2 "REVISION is '$revision'" "it must be a commit, a branch or a tag" ;;
    esac
    tries=${PATCHLENS_TRIES:-5} pause=${PATCHLENS_WAIT:-3}
    case $tries:$pause in
        *[!0-9:]* | 0:*) fail 2 "PATCHLENS_TRIES and PATCHLENS_WAIT must be whole numbers" \
            "PATCHLENS_TRIES must be at least 1" ;;
    esac
    stale=${PATCHLENS_STALE:-60}
    case $stale in
        *[!0-9]* | [0-4] | 0*) fail 2 "PATCHLENS_STALE must be a whole number, at least 5" ;;
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
    trap 'told=yes; note "stopped; run the same command again to resume"; exit 130' INT TERM HUP
    claim_dir
    note "model:    $model ($repo)"
    note "revision: $revision"
    note "from:     $(shown "$endpoint") (with $fetcher)"
    note "to:       $dir"
    for file in config.json tokenizer.json model.safetensors; do fetch "$file"; done
    say "done: $dir has all 3 files of $model"
}

main "$@"
