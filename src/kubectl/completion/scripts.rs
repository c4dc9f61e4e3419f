//! The scripts that shells read. Each asks `kubectl __complete`, so that none knows a command.

use crate::error::Error;

/// The script for a shell.
pub(crate) fn script(shell: &str) -> Result<&'static str, Error> {
    match shell {
        "bash" => Ok(BASH),
        "zsh" => Ok(ZSH),
        "fish" => Ok(FISH),
        "powershell" => Ok(POWERSHELL),
        other => Err(Error::plain(format!("unsupported shell type {other:?}"))),
    }
}

const BASH: &str = r#"# Completion of kubectl for bash: source <(kubectl completion bash)
__kubectl_complete() {
    local line directive=0 word prefix current="${COMP_WORDS[COMP_CWORD]}"
    local -a asked=() found=()
    # Bash takes a=b and a:b apart; they are put together again.
    local whole="${COMP_LINE:0:COMP_POINT}"
    read -r -a asked <<<"$whole"
    [[ $whole == *[[:space:]] ]] && asked+=("")
    word="${asked[${#asked[@]}-1]}"
    while IFS= read -r line; do
        found+=("${line%%$'\t'*}")
    done < <("${asked[0]}" __complete "${asked[@]:1}" 2>/dev/null)
    if ((${#found[@]})); then
        directive="${found[${#found[@]}-1]#:}"
        unset 'found[${#found[@]}-1]'
    fi
    prefix="${word%"$current"}"
    COMPREPLY=()
    for line in "${found[@]}"; do
        line="${line#"$prefix"}"
        [[ $current == "=" || $current == ":" ]] && line="${line#"$current"}"
        COMPREPLY+=("$line")
    done
    if [[ $directive == 0 && ${#COMPREPLY[@]} == 0 ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    fi
    [[ ${#COMPREPLY[@]} == 1 && ( $directive == 6 || ${COMPREPLY[0]} == *= || ${COMPREPLY[0]} == */ ) ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -F __kubectl_complete kubectl
"#;

const ZSH: &str = r#"#compdef kubectl
# Completion of kubectl for zsh: source <(kubectl completion zsh)
_kubectl() {
    local line directive=0
    local -a found described
    found=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    directive="${found[-1]#:}"
    found=("${(@)found[1,-2]}")
    for line in "${found[@]}"; do
        [[ -z $line ]] && continue
        line="${line//:/\\:}"
        described+=("${line/$'\t'/:}")
    done
    if (( ${#described} )); then
        if [[ $directive == 6 ]]; then
            _describe -V kubectl described -S ''
        else
            _describe -V kubectl described
        fi
    elif [[ $directive == 0 ]]; then
        _files
    fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _kubectl "$@"
else
    compdef _kubectl kubectl
fi
"#;

const FISH: &str = r#"# Completion of kubectl for fish: kubectl completion fish | source
function __kubectl_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l found ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
    test (count $found) -gt 0; or return 1
    set -g __kubectl_directive (string replace : '' -- $found[-1])
    test (count $found) -gt 1; and printf '%s\n' $found[1..-2]
end
function __kubectl_wants_files
    __kubectl_complete >/dev/null
    test "$__kubectl_directive" = 0
end
complete -c kubectl -e
complete -c kubectl -n 'not __kubectl_wants_files' -f -a '(__kubectl_complete)'
complete -c kubectl -n __kubectl_wants_files -F -a '(__kubectl_complete)'
"#;

const POWERSHELL: &str = r#"# Completion of kubectl for PowerShell: kubectl completion powershell | Out-String | Invoke-Expression
Register-ArgumentCompleter -Native -CommandName kubectl -ScriptBlock {
    param($word, $ast, $position)
    $words = @($ast.CommandElements | Where-Object { $_.Extent.StartOffset -lt $position } | ForEach-Object { $_.ToString() })
    $program = $words[0]
    $words = @($words | Select-Object -Skip 1)
    if ($word -eq '') { $words += '' }
    $found = @(& $program __complete @words 2>$null | Where-Object { -not $_.StartsWith(':') })
    foreach ($line in $found) {
        $value, $what = $line -split "`t", 2
        if (-not $what) { $what = $value }
        [System.Management.Automation.CompletionResult]::new($value, $value, 'ParameterValue', $what)
    }
}
"#;
