//! The flags that every command takes.

use crate::connection::plugin::Policy;
use crate::error::Error;
use crate::wait_gone;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Which server, which user, which namespace, and how it is asked. What is "" was not given ([`Global::tidied`]). Help
/// leaves them to `kubectl options`, as there are more of them than of any command's own.
#[derive(Args, Clone, Default)]
pub(crate) struct Global {
    /// The user to act as: a name, or a service account's whole name
    #[arg(long = "as", global = true, hide = true, value_name = "USER")]
    pub(crate) act_as: Option<String>,
    /// A group to act as; may be repeated
    #[arg(long, global = true, hide = true, value_name = "GROUP")]
    pub(crate) as_group: Vec<String>,
    /// The UID to act as
    #[arg(long, global = true, hide = true, value_name = "UID")]
    pub(crate) as_uid: Option<String>,
    /// What else is known of the user to act as: KEY=VALUE; may be repeated
    #[arg(long, global = true, hide = true, value_name = "KEY=VALUE")]
    pub(crate) as_user_extra: Vec<String>,
    /// Where to remember what servers have
    #[arg(long, global = true, hide = true, value_name = "FOLDER")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// The file with the server's authority
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(crate) certificate_authority: Option<String>,
    /// The file with the client's certificate
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(crate) client_certificate: Option<String>,
    /// The file with the client's key
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(crate) client_key: Option<String>,
    /// The kubeconfig's cluster
    #[arg(long, global = true, hide = true)]
    pub(crate) cluster: Option<String>,
    /// The kubeconfig's context
    #[arg(long, global = true, hide = true)]
    pub(crate) context: Option<String>,
    /// Ask for answers that are not compressed
    #[arg(long, global = true, hide = true)]
    pub(crate) disable_compression: bool,
    /// Do not verify the server's certificate: whoever is between sees and changes everything
    #[arg(long, global = true, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) insecure_skip_tls_verify: Option<bool>,
    /// The kubeconfig file
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The file with preferences, or "off" for none
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(crate) kuberc: Option<String>,
    /// How often logs are written out: whatever it is, nothing is held back
    #[arg(long = "log-flush-frequency", global = true, hide = true, value_name = "DURATION", value_parser = frequency)]
    pub(crate) _log_flush_frequency: Option<Duration>,
    /// Go on only if the server is of this client's version
    #[arg(long, global = true, hide = true)]
    pub(crate) match_server_version: bool,
    /// The namespace
    #[arg(long, short, global = true, hide = true)]
    pub(crate) namespace: Option<String>,
    /// The password that goes with --username
    #[arg(long, global = true, hide = true)]
    pub(crate) password: Option<String>,
    /// Which profile to write of this program: none, as Go's are no profiles of it
    #[arg(long, global = true, hide = true, default_value = "none", hide_default_value = true)]
    pub(crate) profile: String,
    /// Where a profile goes
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(crate) profile_output: Option<PathBuf>,
    /// How long a request may take, such as 1s, 2m or 3h; 0 for as long as it takes
    #[arg(long, global = true, hide = true, value_name = "DURATION")]
    pub(crate) request_timeout: Option<String>,
    /// The server's URL
    #[arg(long, short, global = true, hide = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// The name that the server's certificate has, where it is not the URL's
    #[arg(long, global = true, hide = true, value_name = "NAME")]
    pub(crate) tls_server_name: Option<String>,
    /// A bearer token
    #[arg(long, global = true, hide = true)]
    pub(crate) token: Option<String>,
    /// The kubeconfig's user
    #[arg(long, global = true, hide = true)]
    pub(crate) user: Option<String>,
    /// The name for servers that know users by passwords
    #[arg(long, global = true, hide = true)]
    pub(crate) username: Option<String>,
    /// How much to say of requests: 6 to 9, from a line each to all of them
    #[arg(
        long = "v",
        short = 'v',
        global = true,
        hide = true,
        value_name = "LEVEL",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) verbosity: u8,
    /// How much to say of requests, by the file of kubectl's that does: FILE=LEVEL, such as round_trippers=8
    #[arg(long, global = true, hide = true, value_name = "FILE=LEVEL", value_parser = modules)]
    pub(crate) vmodule: Option<Modules>,
    /// Fail if the server warned
    #[arg(long, global = true, hide = true)]
    pub(crate) warnings_as_errors: bool,
    /// Which credential plugins may be run, by the preferences.
    #[arg(skip)]
    pub(crate) policy: Policy,
    /// What is annotated as the cause of changes.
    #[arg(skip)]
    pub(crate) cause: Option<String>,
}

/// Why a value is refused, in the words of Go's libraries.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

/// Patterns of files' names, each with how much is said.
#[derive(Clone, Default)]
pub(crate) struct Modules(Vec<(String, u8)>);

/// Profiles that kubectl writes of itself.
const PROFILES: [&str; 7] = ["cpu", "heap", "goroutine", "threadcreate", "block", "mutex", "trace"];
/// What requests are shown by: this program's file, and those of kubectl that do it there.
const SHOWING: [&str; 3] = ["requests", "request", "round_trippers"];

impl Global {
    /// Refuses profiles that are not made.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.profile.as_str() {
            "none" => Ok(()),
            go if PROFILES.contains(&go) => {
                Err(Error::plain(format!("no {go} profile can be made: this kubectl is no program in Go")))
            }
            other => Err(Error::plain(format!("unknown profile '{other}'"))),
        }
    }

    /// How much to say of requests, by `-v` and `--vmodule`.
    pub(crate) fn verbosity(&self) -> u8 {
        let is_shown = |file: &str| {
            let file = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".go");
            SHOWING.iter().any(|known| fits(file, known))
        };
        let of_files = self.vmodule.iter().flat_map(|Modules(all)| all);
        let of_files = of_files.filter(|(file, _)| is_shown(file)).map(|(_, level)| *level);
        of_files.fold(self.verbosity, u8::max)
    }

    /// Flags with nothing in them are taken for flags that are not there.
    pub(crate) fn tidied(mut self) -> Self {
        let texts = [
            &mut self.act_as,
            &mut self.as_uid,
            &mut self.certificate_authority,
            &mut self.client_certificate,
            &mut self.client_key,
            &mut self.cluster,
            &mut self.context,
            &mut self.namespace,
            &mut self.password,
            &mut self.server,
            &mut self.tls_server_name,
            &mut self.token,
            &mut self.user,
            &mut self.username,
        ];
        for text in texts {
            *text = text.take().filter(|text| !text.is_empty());
        }
        for path in [&mut self.kubeconfig, &mut self.cache_dir] {
            *path = path.take().filter(|path| !path.as_os_str().is_empty());
        }
        self
    }
}

/// `--log-flush-frequency`.
fn frequency(text: &str) -> Result<Duration, Refused> {
    let is_number = text.parse::<f64>().is_ok() && text != "0";
    wait_gone::duration(text).ok().filter(|_| !is_number).ok_or_else(|| Refused("parse error".to_owned()))
}

/// A flag's length of time, kept as it was written: a number with its unit, or 0; it may be negative.
pub(crate) fn span(text: &str) -> Result<String, Refused> {
    let length = text.strip_prefix(['-', '+']).unwrap_or(text);
    if length.is_empty() {
        return Err(Refused(format!("time: invalid duration {text:?}")));
    }
    if length != "0" && length.parse::<f64>().is_ok() {
        return Err(Refused(format!("time: missing unit in duration {text:?}")));
    }
    let read = wait_gone::duration(length);
    read.map(|_| text.to_owned()).map_err(|_| Refused(format!("time: invalid duration {text:?}")))
}

/// `--vmodule`.
fn modules(text: &str) -> Result<Modules, Refused> {
    let entry = |entry: &str| {
        let (file, level) = entry.split_once('=')?;
        Some((file.to_owned(), level.parse().ok()?))
    };
    let all = text.split(',').filter(|entry| !entry.is_empty()).map(entry).collect::<Option<_>>();
    all.map(Modules)
        .ok_or_else(|| Refused("syntax error: expect comma-separated list of filename=N".to_owned()))
}

/// Whether a name is of a pattern with `*`, `?` and `[a-c]`.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    let mut signs = pattern.chars();
    match signs.next() {
        None => name.is_empty(),
        Some('*') => name
            .char_indices()
            .map(|(at, _)| at)
            .chain([name.len()])
            .any(|at| fits(signs.as_str(), &name[at..])),
        Some('[') => {
            let Some((class, after)) = signs.as_str().split_once(']') else { return false };
            let mut rest = name.chars();
            rest.next().is_some_and(|first| is_of(class, first)) && fits(after, rest.as_str())
        }
        Some(sign) => {
            let mut rest = name.chars();
            rest.next().is_some_and(|first| sign == '?' || sign == first)
                && fits(signs.as_str(), rest.as_str())
        }
    }
}

/// Whether a sign is one of `abx-z`, or none of `^abx-z`.
fn is_of(class: &str, sign: char) -> bool {
    let (negated, class) = class.strip_prefix('^').map_or((false, class), |class| (true, class));
    let signs: Vec<char> = class.chars().collect();
    let range = |three: &[char]| three[1] == '-' && (three[0]..=three[2]).contains(&sign);
    (signs.contains(&sign) || signs.windows(3).any(range)) != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_shown_by_the_file_that_does() {
        let level = |text: &str| {
            let vmodule = Some(modules(text).ok()?);
            Some(Global { verbosity: 6, vmodule, ..Global::default() }.verbosity())
        };
        assert_eq!(level("round_*=8,cache=9"), Some(8));
        assert_eq!(level("transport/round_tripper?.go=7"), Some(7));
        assert_eq!(level("x=9,"), Some(6));
        assert_eq!(level("requests"), None);
    }

    #[test]
    fn patterns_have_classes() {
        for (pattern, name) in [("a-[12].y*", "a-2.yaml"), ("[^b]", "a"), ("[a-c]x", "bx")] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a-[12]", "a-3"), ("[^b]", "b"), ("[a", "a"), ("[a]", "")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn lengths_of_time_have_units() {
        for text in ["0", "0s", "-1m", "1h2m3s", "1.5s"] {
            assert_eq!(span(text).ok().as_deref(), Some(text));
        }
        for (text, why) in [("x", "invalid duration \"x\""), ("5", "missing unit in duration \"5\"")] {
            assert_eq!(span(text).unwrap_err().to_string(), format!("time: {why}"));
        }
    }

    #[test]
    fn profiles_of_go_are_refused() {
        let said = |profile: &str| {
            Global { profile: profile.to_owned(), ..Global::default() }
                .check()
                .map_err(|error| error.message())
        };
        assert_eq!(said("none"), Ok(()));
        assert!(said("cpu").unwrap_err().starts_with("no cpu profile"));
        assert_eq!(said("x").unwrap_err(), "unknown profile 'x'");
    }
}
