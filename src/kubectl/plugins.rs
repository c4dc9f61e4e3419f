//! Programs on the `PATH` that are commands: `kubectl-a-b` is `kubectl a b`.

use crate::error::Error;
use crate::output::say;
use crate::tree;
use clap::{Args, Command, Subcommand};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What is done about plugins.
#[derive(Subcommand)]
pub(crate) enum Plugin {
    /// List those on the PATH
    List(List),
}

#[derive(Args)]
pub(crate) struct List {
    /// Show names without folders
    #[arg(long)]
    name_only: bool,
}

/// The first executable file of this name on the `PATH`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    folders().into_iter().map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in std::env::var_os("PATH").iter().flat_map(std::env::split_paths) {
        if !folder.as_os_str().is_empty() && !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

pub(crate) fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|known| known.is_file() && known.permissions().mode() & 0o111 != 0)
}

/// Becomes the plugin that a line means, the one of the longest name; comes back where there is none. At least
/// `least` words have to be of its name: a plugin of a command's may not take the place of one of its own.
pub(crate) fn run(words: &[String], least: usize) -> Result<(), Error> {
    let before_flags: Vec<String> =
        words.iter().take_while(|word| !word.starts_with('-')).map(|word| word.replace('-', "_")).collect();
    for count in (least.max(1)..=before_flags.len()).rev() {
        let name = format!("kubectl-{}", before_flags[..count].join("-"));
        if name.contains('/') {
            continue;
        }
        if let Some(path) = on_path(&name) {
            return become_it(&path, &words[count..]);
        }
    }
    Ok(())
}

fn become_it(path: &Path, args: &[String]) -> Result<(), Error> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|error| Error::plain(error.to_string()));
    let program = text(path.as_os_str().as_bytes())?;
    let mut argv = vec![program.clone()];
    for arg in args {
        argv.push(text(arg.as_bytes())?);
    }
    match nix::unistd::execv(&program, &argv) {
        Ok(never) => match never {},
        Err(error) => Err(Error::plain(format!("fork/exec {}: {error}", path.display()))),
    }
}

/// Files whose names make them plugins, in the order of the `PATH`.
pub(crate) fn all() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                let shown = folder.display().to_string();
                let why = crate::connection::unreadable(&shown, &error);
                eprintln!("Unable to read directory {shown:?} from your PATH: {why}. Skipping...");
                continue;
            }
        };
        let is_plugin = |file: &PathBuf| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("kubectl-") && !file.is_dir()
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_plugin).collect();
        files.sort();
        found.extend(files);
    }
    found
}

/// `plugin list`.
pub(crate) fn list(root: &Command, args: &List) -> Result<(), Error> {
    let plugins = all();
    if plugins.is_empty() {
        return Err(Error::plain("unable to find any kubectl plugins in your PATH"));
    }
    say("The following compatible plugins are available:\n\n")?;
    let mut seen: BTreeMap<String, &Path> = BTreeMap::new();
    let mut warnings = 0;
    for plugin in &plugins {
        let name = plugin.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shown = plugin.display();
        say(&if args.name_only { format!("{name}\n") } else { format!("{shown}\n") })?;
        let mut warn = |text: String| {
            eprintln!("  - warning: {text}");
            warnings += 1;
        };
        if !is_executable(plugin) {
            warn(format!("{shown} identified as a kubectl plugin, but it is not executable"));
        }
        if let Some(first) = seen.get(&name) {
            warn(format!("{shown} is overshadowed by a similarly named plugin: {}", first.display()));
        }
        let words: Vec<String> = name.split('-').skip(1).map(str::to_owned).collect();
        let place = tree::follow(root, &words);
        let is_whole = place.after == words.len() || place.command().get_subcommands().next().is_none();
        if place.commands.len() > 1 && is_whole {
            warn(format!("{name} overwrites existing command: {:?}", format!("kubectl {}", place.path())));
        }
        seen.entry(name).or_insert(plugin);
    }
    match warnings {
        0 => Ok(()),
        1 => Err(Error::plain("one plugin warning was found")),
        count => Err(Error::plain(format!("{count} plugin warnings were found"))),
    }
}
