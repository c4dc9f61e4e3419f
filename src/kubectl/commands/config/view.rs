//! `kubectl config view` and `get-contexts`.

use crate::connection::unreadable;
use crate::error::Error;
use crate::globals::Global;
use crate::kubeconfig::{Kubeconfig, LISTS, redacted};
use crate::output::{say, tabs};
use crate::writing::Printing;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};

#[derive(Args)]
pub(crate) struct View {
    /// With secrets and certificates
    #[arg(long)]
    raw: bool,
    /// Only what the context in use needs
    #[arg(long)]
    minify: bool,
    /// Put the contents of files in, so that it can be used elsewhere
    #[arg(long)]
    flatten: bool,
    /// Of all files; false needs --kubeconfig
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    merge: Option<bool>,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Args)]
pub(crate) struct GetContexts {
    /// Only these
    names: Vec<String>,
    /// name
    #[arg(long, short, default_value = "", hide_default_value = true)]
    output: String,
    /// Leave out the header
    #[arg(long)]
    no_headers: bool,
}

pub(crate) fn run(global: &Global, args: &View) -> Result<(), Error> {
    if args.merge == Some(false) && global.kubeconfig.is_none() {
        return Err(Error::plain("if merge==false a precise file must be specified"));
    }
    // What files are embedded of is found from where the kubeconfig lies.
    let config = if args.flatten { Kubeconfig::load(global)? } else { Kubeconfig::load_raw(global)? };
    let mut printing = args.printing.clone();
    printing.output.get_or_insert_with(|| "yaml".to_owned());
    let printer = printing.open()?;
    let mut content = config.content.clone();
    if args.minify {
        content = minified(global, &config)?;
    }
    if args.flatten {
        embed(&mut content)?;
    } else if !args.raw {
        content = redacted(content);
    }
    for (list, _) in LISTS {
        if content[list].as_array().is_none_or(Vec::is_empty) {
            content[list] = Value::Null;
        }
    }
    if content["current-context"].is_null() {
        content["current-context"] = json!("");
    }
    printer.print(&content, || api::yaml::render(&content).trim_end().to_owned())
}

fn minified(global: &Global, config: &Kubeconfig) -> Result<Value, Error> {
    let name = config.context_name(global);
    if name.is_empty() {
        return Err(Error::plain("current-context must exist in order to minify"));
    }
    let Some(context) = config.entry("contexts", name) else {
        return Err(Error::plain(format!("cannot locate context {name}")));
    };
    let mut content = config.content.clone();
    let wanted = [context["cluster"].as_str(), Some(name), context["user"].as_str()];
    for ((list, field), wanted) in LISTS.iter().zip(wanted) {
        let wanted = wanted.unwrap_or_default();
        if !wanted.is_empty() && config.entry(list, wanted).is_none() {
            return Err(Error::plain(format!("cannot locate {field} {wanted}")));
        }
        if let Some(items) = content[*list].as_array_mut() {
            items.retain(|item| item["name"] == wanted);
        }
    }
    content["current-context"] = json!(name);
    Ok(content)
}

fn embed(content: &mut Value) -> Result<(), Error> {
    for (list, field) in LISTS {
        for item in content[list].as_array_mut().into_iter().flatten() {
            for key in ["certificate-authority", "client-certificate", "client-key"] {
                let known = item.get(field).and_then(|entry| entry[key].as_str());
                let Some(path) = known.filter(|path| !path.is_empty()).map(str::to_owned) else { continue };
                let bytes = std::fs::read(&path).map_err(|error| Error::plain(unreadable(&path, &error)))?;
                if let Some(entry) = item[field].as_object_mut() {
                    entry.remove(key);
                    entry.insert(format!("{key}-data"), json!(STANDARD.encode(bytes)));
                }
            }
        }
    }
    Ok(())
}

pub(crate) fn contexts(config: &Kubeconfig, args: &GetContexts) -> Result<(), Error> {
    if !matches!(&*args.output, "" | "name") {
        return Err(Error::plain(format!(
            "--output {} is not available in kubectl config get-contexts; resetting to default output format",
            args.output
        )));
    }
    let by_name = args.output == "name";
    let mut text = String::new();
    if !by_name && !args.no_headers {
        text.push_str("CURRENT\tNAME\tCLUSTER\tAUTHINFO\tNAMESPACE\n");
    }
    for item in config.content["contexts"].as_array().into_iter().flatten() {
        let name = item["name"].as_str().unwrap_or_default();
        if !args.names.is_empty() && !args.names.iter().any(|wanted| wanted == name) {
            continue;
        }
        if by_name {
            text.push_str(&format!("{name}\n"));
            continue;
        }
        let field = |key: &str| item["context"][key].as_str().unwrap_or_default();
        let mark = if config.content["current-context"] == name { "*" } else { " " };
        let (cluster, user, namespace) = (field("cluster"), field("user"), field("namespace"));
        text.push_str(&format!("{mark}\t{name}\t{cluster}\t{user}\t{namespace}\n"));
    }
    say(&tabs::align(&text, 6, 3))?;
    let is_absent = |name: &&String| config.entry("contexts", name).is_none();
    let absent: Vec<String> =
        args.names.iter().filter(is_absent).map(|name| format!("context {name} not found")).collect();
    match &absent[..] {
        [] => Ok(()),
        [one] => Err(Error::plain(one)),
        several => Err(Error::Bare(several.join("\n"))),
    }
}
