//! The scripts that shells read. Each asks `kubectl __complete`, so that none knows a command.

use crate::error::Error;

/// The script for a shell.
pub(crate) fn script(shell: &str) -> Result<&'static str, Error> {
    match shell {
        "bash" => Ok(BASH),
        "zsh" => Ok(ZSH),
        "fish" => Ok(FISH),
        "powershell" => Ok(POWERSHELL),
        other => Err(Error::usage(format!("Unsupported shell type {other:?}."), "completion")),
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
    if (( (directive & 4) == 0 && ${#COMPREPLY[@]} == 0 )); then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    fi
    (( directive & 2 )) && compopt -o nospace 2>/dev/null
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
        if (( directive & 2 )); then
            _describe -V kubectl described -S ''
        else
            _describe -V kubectl described
        fi
    elif (( !(directive & 4) )); then
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
    contains -- "$__kubectl_directive" 0 2
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
    # Before 7.2 an empty argument has to be quoted to be handed on.
    if ($word -eq '') { $words += $(if ($PSVersionTable.PSVersion -lt [version]'7.2') { '""' } else { '' }) }
    $found = @(& $program __complete @words 2>$null)
    # Nothing at all would have PowerShell complete files.
    if ($found.Count -eq 1 -and $found[0] -in ':4', ':6') { return '' }
    foreach ($line in $found | Where-Object { -not $_.StartsWith(':') }) {
        $value, $what = $line -split "`t", 2
        if (-not $what) { $what = $value }
        [System.Management.Automation.CompletionResult]::new($value, $value, 'ParameterValue', $what)
    }
}
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    /// Says what it was asked, and answers as `kubectl __complete` does.
    const KUBECTL: &str = "#!/bin/sh\nprintf '<%s>' \"$@\" >>\"$ASKED\"\necho >>\"$ASKED\"\nfor last; do :; done\ncase $last in\n-o | o*) printf 'one\\twhat one is\\nother\\n:4\\n' ;;\nname) printf 'name=\\n:6\\n' ;;\n--flag=v) printf -- '--flag=value\\n:4\\n' ;;\n*none) echo :4 ;;\n*) echo :0 ;;\nesac\n";

    struct Folder(PathBuf);

    impl Folder {
        fn new(shell: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("knarr-completion-{shell}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let kubectl = folder.join("kubectl");
            std::fs::write(&kubectl, KUBECTL).unwrap();
            std::fs::set_permissions(&kubectl, PermissionsExt::from_mode(0o755)).unwrap();
            std::fs::write(folder.join("file-here"), "").unwrap();
            std::fs::write(folder.join("script"), script(shell).unwrap()).unwrap();
            Self(folder)
        }

        async fn run(&self, shell: &str, program: &str) -> Result<String, std::io::Error> {
            let mut command = base::process::command(shell);
            let path = format!("{}:{}", self.0.display(), std::env::var("PATH").unwrap());
            command.args(["-c", program]).current_dir(&self.0).env("PATH", path);
            command.env("ASKED", self.0.join("asked")).env("HOME", &self.0);
            let output = command.stdout(std::process::Stdio::piped()).output().await?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }

        fn asked(&self) -> String {
            std::fs::read_to_string(self.0.join("asked")).unwrap_or_default()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    #[tokio::test]
    async fn bash_completes() {
        let folder = Folder::new("bash");
        let program = r#"source ./script
            compopt() { echo "compopt $*"; }
            try() {
                COMP_LINE="$1" COMP_POINT=${#1} COMPREPLY=()
                read -r -a COMP_WORDS <<<"${1//=/ = }"
                [[ $1 == *" " ]] && COMP_WORDS+=("")
                COMP_CWORD=$((${#COMP_WORDS[@]}-1))
                __kubectl_complete
                echo "${COMPREPLY[*]}"
            }
            try "kubectl get o"; try "kubectl name"; try "kubectl get --flag=v"; try "kubectl none"; try "kubectl -f file"; try "kubectl get "
        "#;
        let said = folder.run("bash", program).await.unwrap();
        let lines: Vec<&str> = said.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "one other",
                "compopt -o nospace",
                "name=",
                "value",
                "",
                "compopt -o filenames",
                "file-here",
                "compopt -o filenames",
                "asked file-here kubectl script"
            ]
        );
        assert!(
            folder.asked().ends_with("<__complete><-f><file>\n<__complete><get><>\n"),
            "{}",
            folder.asked()
        );
    }

    #[tokio::test]
    async fn fish_completes() {
        let folder = Folder::new("fish");
        let program = "source ./script\nfor line in 'kubectl get o' 'kubectl name' 'kubectl none' 'kubectl -f file'\nstring join , (complete -C $line)\nend";
        let said = folder.run("fish", program).await.unwrap();
        assert_eq!(said, "one\twhat one is,other\nname=\nfile-here\n");
    }

    #[test]
    fn each_shell_that_is_known_has_a_script() {
        for shell in ["bash", "zsh", "fish", "powershell"] {
            assert!(script(shell).unwrap().contains("__complete"), "{shell}");
        }
        assert!(script("csh").is_err());
    }
}
