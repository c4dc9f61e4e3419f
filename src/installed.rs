//! What install.sh has installed: a record of each service, from which the commands that stop and remove knarr learn
//! its settings, as the service itself takes them.

use crate::options::{self, Options, Role};
use crate::screen;
use clap::{Arg, ArgMatches, Command};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where install.sh keeps its records, a file for each service.
const FOLDER: &str = "/etc/knarr/installed";
/// A record has a few dozen lines.
const RECORD_BYTES: u64 = 1 << 20;

/// Who starts the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Init {
    Systemd,
    OpenRc,
    #[default]
    None,
}

/// One service that was installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The service's name, such as `knarr`.
    pub(crate) service: String,
    pub(crate) init: Init,
    /// The file with the service's environment.
    environment: Option<PathBuf>,
    /// What it is started with, the role first.
    arguments: Vec<String>,
    /// Files and links that installing made, in the order in which they can be removed.
    pub(crate) made: Vec<PathBuf>,
}

/// All records; those that cannot be read are told of.
pub(crate) fn records() -> Result<Vec<Record>, String> {
    let Ok(entries) = std::fs::read_dir(FOLDER) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Record, String> {
    let about = |why: String| format!("{}: {why}", path.display());
    let size = std::fs::metadata(path).map_err(|error| about(error.to_string()))?.len();
    if size > RECORD_BYTES {
        return Err(about("this is no record of an installation".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| about(error.to_string()))?;
    parse(&text).map_err(about)
}

/// Lines of `key=value`.
fn parse(text: &str) -> Result<Record, String> {
    let mut record = Record::default();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once('=').ok_or_else(|| format!("{line:?} has no ="))?;
        match key {
            "service" => value.clone_into(&mut record.service),
            "environment" => record.environment = Some(value.into()),
            "argument" => record.arguments.push(value.to_owned()),
            "made" => record.made.push(value.into()),
            "init" => {
                record.init = match value {
                    "systemd" => Init::Systemd,
                    "openrc" => Init::OpenRc,
                    "none" => Init::None,
                    other => return Err(format!("init {other:?} is not known")),
                };
            }
            other => return Err(format!("{other:?} is not known here")),
        }
    }
    if record.service.is_empty() {
        return Err("it names no service".to_owned());
    }
    Ok(record)
}

impl Record {
    /// The settings of the service, as it takes them itself.
    pub(crate) fn options(&self) -> Result<Options, String> {
        let variables = self.environment.as_deref().map(environment).transpose()?.unwrap_or_default();
        settings(&self.arguments, variables).map_err(|why| format!("the service {}: {why}", self.service))
    }
}

/// What install.sh asks before it installs anything: where a knarr with some arguments keeps what it has.
pub(crate) fn where_command() -> Command {
    let environment = Arg::new("environment").long("environment").value_name("FILE");
    let arguments = Arg::new("arguments").num_args(1..).required(true).last(true);
    Command::new("where").hide(true).arg(environment).arg(arguments)
}

/// Prints folders as a shell reads them.
pub(crate) fn tell_where(matches: &ArgMatches) -> ExitCode {
    let arguments: Vec<String> =
        matches.get_many::<String>("arguments").into_iter().flatten().cloned().collect();
    let told = match matches.get_one::<String>("environment") {
        Some(file) => environment(Path::new(file)).and_then(|variables| settings(&arguments, variables)),
        None => settings(&arguments, std::env::vars()),
    };
    let told = told.and_then(|options| Ok((options.given_token()?.is_some(), options)));
    let (has_token, options) = match told {
        Ok(told) => told,
        Err(error) => return screen::failed(&error),
    };
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
    screen::say(&format!("DATA_DIR={}", quoted(&options.data_dir)));
    screen::say(&format!("KUBECONFIG_FILE={}", quoted(&options.write_kubeconfig)));
    screen::say(&format!("TOKEN={}", if has_token { "given" } else { "missing" }));
    ExitCode::SUCCESS
}

/// The variables of an environment file; none where there is no such file.
fn environment(path: &Path) -> Result<BTreeMap<String, String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(variables(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The settings that knarr takes from these arguments, the role first, and this environment.
pub(crate) fn settings(
    arguments: &[String],
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Options, String> {
    let role = match arguments.first().map(String::as_str) {
        Some("server") => Role::Server,
        Some("agent") => Role::Agent,
        other => return Err(format!("{:?} is neither server nor agent", other.unwrap_or_default())),
    };
    let words = arguments.iter().map(OsString::from);
    let matches = options::command(role).try_get_matches_from(words).map_err(|error| error.to_string())?;
    let given = options::read_with(role, &matches, variables.into_iter());
    given.and_then(|given| given.options()).map_err(|error| error.to_string())
}

/// The variables of an environment file that install.sh wrote: `NAME='value'`, a quote within as `'\''`.
fn variables(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .map(|(name, quoted)| {
            let value = quoted.replace("'\\''", "\0").replace('\'', "").replace('\0', "'");
            (name.to_owned(), value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_the_settings_of_its_service() {
        let record = parse(
            "# by install.sh\nservice=knarr-agent\ninit=systemd\nargument=agent\nargument=--data-dir\n\
             argument=/srv/a b\nargument=--config=/nonexistent\nmade=/usr/local/bin/knarr\n",
        )
        .unwrap();
        assert_eq!((record.service.as_str(), record.init), ("knarr-agent", Init::Systemd));
        assert_eq!(record.made, [Path::new("/usr/local/bin/knarr")]);
        let options = record.options().unwrap();
        assert_eq!(options.data_dir, Path::new("/srv/a b"));
        for (text, why) in [
            ("service", "has no ="),
            ("init=systemd", "names no service"),
            ("service=a\ninit=upstart", "upstart"),
            ("service=a\nmode=7", "\"mode\" is not known"),
        ] {
            assert!(parse(text).unwrap_err().contains(why), "{text}");
        }
        let other = parse("service=a\nargument=controller").unwrap().options().unwrap_err();
        assert!(other.contains("neither server nor agent"), "{other}");
    }

    #[test]
    fn the_environment_of_a_service_is_read_as_it_was_quoted() {
        let read = variables("KNARR_RUN_DIR='/run/a'\nKNARR_TOKEN='it'\\''s'\n");
        assert_eq!(read["KNARR_RUN_DIR"], "/run/a");
        assert_eq!(read["KNARR_TOKEN"], "it's");
        let words = ["server", "--config", "/nonexistent"].map(str::to_owned);
        assert_eq!(settings(&words, read).unwrap().run_dir, Path::new("/run/a"));
    }
}
