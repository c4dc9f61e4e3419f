//! `kubectl config`: shows and changes the kubeconfig.

use crate::args::{Config, Global};
use crate::error::Error;
use crate::kubeconfig::{Kubeconfig, LISTS, redacted};
use crate::output::{Form, say, tabs};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(crate) fn run(global: &Global, command: Config) -> Result<(), Error> {
    let config = Kubeconfig::load(global)?;
    match command {
        Config::View { raw, minify, flatten, output } => {
            view(global, &config, (raw, minify, flatten), &output)
        }
        Config::CurrentContext => match config.context_name(global) {
            "" => Err(Error::plain("current-context is not set")),
            name => say(&format!("{name}\n")),
        },
        Config::GetContexts => say(&contexts(global, &config)),
        Config::UseContext { name } => {
            if config.entry("contexts", &name).is_none() {
                return Err(Error::plain(format!("no context exists with the name: {name:?}")));
            }
            change(&config, "current-context", |file| {
                file["current-context"] = json!(name);
                true
            })?;
            say(&format!("Switched to context {name:?}.\n"))
        }
        Config::SetContext { name, current } => {
            let current_name = current.then(|| config.context_name(global).to_owned());
            let Some(name) = name.or(current_name).filter(|name| !name.is_empty()) else {
                return Err(Error::plain("you must specify a context name or use --current"));
            };
            set_namespace(global, &config, &name)
        }
    }
}

fn view(
    global: &Global,
    config: &Kubeconfig,
    (raw, minify, flatten): (bool, bool, bool),
    output: &str,
) -> Result<(), Error> {
    let mut content = config.content.clone();
    if minify {
        content = minified(global, config)?;
    }
    if flatten {
        embed(&mut content)?;
    }
    if !raw {
        content = redacted(content);
    }
    match Form::parse(Some(output))? {
        Some(form) => form.print(&content, true),
        None => say(&api::yaml::render(&content)),
    }
}

fn minified(global: &Global, config: &Kubeconfig) -> Result<Value, Error> {
    let name = config.context_name(global);
    let Some(context) = config.entry("contexts", name) else {
        return Err(Error::plain(format!("cannot locate context {name}")));
    };
    let mut content = config.content.clone();
    let wanted = [context["cluster"].as_str(), Some(name), context["user"].as_str()];
    for ((list, _), wanted) in LISTS.iter().zip(wanted) {
        if let Some(items) = content[*list].as_array_mut() {
            items.retain(|item| item["name"].as_str() == wanted);
        }
    }
    content["current-context"] = json!(name);
    Ok(content)
}

fn embed(content: &mut Value) -> Result<(), Error> {
    use base64::Engine;
    for (list, field) in LISTS {
        for item in content[list].as_array_mut().into_iter().flatten() {
            for key in ["certificate-authority", "client-certificate", "client-key"] {
                let known = item.get(field).and_then(|entry| entry[key].as_str());
                let Some(path) = known.map(str::to_owned) else { continue };
                let bytes = std::fs::read(&path)
                    .map_err(|error| Error::plain(format!("unable to read {path}: {error}")))?;
                if let Some(entry) = item[field].as_object_mut() {
                    entry.remove(key);
                    entry.insert(
                        format!("{key}-data"),
                        json!(base64::engine::general_purpose::STANDARD.encode(bytes)),
                    );
                }
            }
        }
    }
    Ok(())
}

fn contexts(global: &Global, config: &Kubeconfig) -> String {
    let mut text = "CURRENT\tNAME\tCLUSTER\tAUTHINFO\tNAMESPACE\n".to_owned();
    for item in config.content["contexts"].as_array().into_iter().flatten() {
        let name = item["name"].as_str().unwrap_or_default();
        let field = |key: &str| item["context"][key].as_str().unwrap_or_default().to_owned();
        let mark = if name == config.context_name(global) { "*" } else { "" };
        text.push_str(&format!(
            "{mark}\t{name}\t{}\t{}\t{}\n",
            field("cluster"),
            field("user"),
            field("namespace")
        ));
    }
    tabs::align(&text, 6, 3)
}

fn set_namespace(global: &Global, config: &Kubeconfig, name: &str) -> Result<(), Error> {
    let Some(namespace) = &global.namespace else {
        return Err(Error::plain("set-context changes a namespace: give --namespace"));
    };
    if config.entry("contexts", name).is_none() {
        return Err(Error::plain(format!("no context exists with the name: {name:?}")));
    }
    change(config, name, |file| {
        let items = file["contexts"].as_array_mut().into_iter().flatten();
        items
            .filter(|item| item["name"] == name)
            .for_each(|item| item["context"]["namespace"] = json!(namespace));
        file["contexts"].as_array().is_some_and(|items| items.iter().any(|item| item["name"] == name))
    })?;
    say(&format!("Context {name:?} modified.\n"))
}

/// Changes the first file that takes the change.
fn change(config: &Kubeconfig, what: &str, edit: impl Fn(&mut Value) -> bool) -> Result<(), Error> {
    for path in &config.files {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let read = api::yaml::first(text.as_bytes())
            .map_err(|error| Error::plain(format!("{}: {error}", path.display())))?;
        let mut content = read.value;
        if edit(&mut content) {
            return write(path, &api::yaml::render(&content))
                .map_err(|error| Error::plain(format!("cannot write {}: {error}", path.display())));
        }
    }
    Err(Error::plain(format!("no kubeconfig file has {what:?}")))
}

/// Replaces the file as a whole, with its mode.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut draft = PathBuf::from(path);
    draft.as_mut_os_string().push(".new");
    let mode = std::fs::metadata(path)?.permissions();
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    file.set_permissions(mode)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}
