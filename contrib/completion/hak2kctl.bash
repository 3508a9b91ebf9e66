# bash completion for hak2kctl, the ha... commands and hak2kd.
# Copy to /usr/share/bash-completion/completions/hak2kctl and link the other names
# to it, or source it from ~/.bashrc.

_hak2k() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    local name=${COMP_WORDS[0]##*/} command='' words word
    case $prev in
        --socket|--config) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --mode) mapfile -t COMPREPLY < <(compgen -W 'active passive starting fault' -- "$cur"); return ;;
        --log-format) mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$cur"); return ;;
        --timeout|--for) return ;;
    esac
    case $name in
        hainfo) command=info ;;       hamode) command=mode ;;
        haactive) command=active ;;   hapassive) command=passive ;;
        hareset) command=reset ;;     hasync) command=sync ;;
        hadiff) command=diff ;;       hasynctest) command=synctest ;;
        enha) command=reload ;;       hawhy) command=why ;;
        hak2kd)
            mapfile -t COMPREPLY < <(compgen -W '--config --check --release --log-format --version --help' -- "$cur")
            return ;;
        *)
            for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
                case $word in
                    info|mode|active|passive|reset|sync|diff|synctest|reload|freeze|resume|verify|stats|events|why|wait)
                        command=$word; break ;;
                esac
            done ;;
    esac
    words='--socket --json --help'
    case $command in
        '') words+=' --version info mode active passive reset sync diff synctest'
            words+=' reload freeze resume verify stats events why wait' ;;
        info|sync) words+=' --verbose' ;;
        active|reset) words+=' --timeout' ;;
        passive) words+=' --timeout --force' ;;
        diff) mapfile -t COMPREPLY < <(compgen -f -W "$words" -- "$cur"); return ;;
        freeze) words+=' --for --' ;;
        verify) words+=' --no-repair --timeout' ;;
        events) words+=' --follow' ;;
        wait) words+=' --mode --ready --timeout' ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _hak2k hak2kctl hak2kd hainfo hamode haactive hapassive hareset \
    hasync hadiff hasynctest enha hawhy
