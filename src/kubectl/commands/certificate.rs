//! `kubectl certificate`: approves and denies requests for certificates.

use crate::choice::{Choice, Each, Found, failed};
use crate::error::Error;
use crate::output::say;
use crate::session::Session;
use crate::writing::{Printer, Printing, resource_name};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

/// How often a request is read anew that changed meanwhile.
const TRIES: u32 = 10;

/// What is done with a request.
#[derive(Subcommand)]
pub(crate) enum Certificate {
    /// Let it be signed
    Approve(Requests),
    /// Refuse it for good
    Deny(Requests),
}

#[derive(Args)]
pub(crate) struct Requests {
    #[command(flatten)]
    naming: Each,
    #[command(flatten)]
    printing: Printing,
    /// Also those that have been judged so already
    #[arg(long)]
    force: bool,
}

/// A judgement, and what excludes it.
struct Judgement {
    condition: &'static str,
    opposite: &'static str,
    reason: &'static str,
    verb: &'static str,
}

pub(crate) async fn run(session: &Session, command: &Certificate) -> Result<(), Error> {
    let (args, judgement) = match command {
        Certificate::Approve(args) => (
            args,
            Judgement {
                condition: "Approved",
                opposite: "Denied",
                reason: "KubectlApprove",
                verb: "approve",
            },
        ),
        Certificate::Deny(args) => (
            args,
            Judgement { condition: "Denied", opposite: "Approved", reason: "KubectlDeny", verb: "deny" },
        ),
    };
    if args.naming.words.is_empty() && args.naming.files.is_empty() {
        return Err(Error::plain("one or more CSRs must be specified as <name> or -f <filename>"));
    }
    let printer = args.printing.open()?;
    let mut words = args.naming.words.clone();
    if !words.is_empty() {
        words.insert(0, "certificatesigningrequests".to_owned());
    }
    let choice = Choice { files: args.naming.files.clone(), ..Choice::of(words, "") };
    let mut failures = Vec::new();
    let found = choice.read(session, false).await?;
    if found.is_empty() {
        return say("No resources found\n");
    }
    for one in found {
        let judged = match one {
            Ok(one) => judge(session, args, &judgement, (one, &printer)).await,
            Err(error) => Err(error),
        };
        failures.extend(judged.err());
    }
    failed(failures)
}

async fn judge(
    session: &Session,
    args: &Requests,
    judgement: &Judgement,
    (mut found, printer): (Found, &Printer),
) -> Result<(), Error> {
    let resource = &found.resource;
    if (resource.group.as_str(), resource.kind.as_str())
        != ("certificates.k8s.io", "CertificateSigningRequest")
    {
        let got = if resource.group.is_empty() {
            resource.kind.clone()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        return Err(Error::plain(format!(
            "can only handle CertificateSigningRequest.certificates.k8s.io objects, got {got}"
        )));
    }
    let path = format!("{}/approval", found.path());
    let mut tries = 0;
    loop {
        let already = judged(&mut found.object, judgement)?;
        if already && !args.force {
            break;
        }
        tries += 1;
        match session.write(Method::PUT, &path, &found.object).await {
            Ok(_) => break,
            Err(error) if error.is_conflict() && tries < TRIES => {
                found.object = session.get(&found.path()).await?;
            }
            Err(error) => return Err(error),
        }
    }
    printer.print(&found.object, || {
        let done = judgement.condition.to_lowercase();
        format!("{}/{} {done}", resource_name(&found.resource), found.name)
    })
}

/// Adds the condition, unless it is there: then that is true.
fn judged(object: &mut Value, judgement: &Judgement) -> Result<bool, Error> {
    let has = |object: &Value, kind: &str| {
        object["status"]["conditions"].as_array().into_iter().flatten().any(|one| one["type"] == kind)
    };
    if has(object, judgement.opposite) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        return Err(Error::plain(format!(
            "certificate signing request {name:?} is already {}",
            judgement.opposite
        )));
    }
    if has(object, judgement.condition) {
        return Ok(true);
    }
    let done = judgement.condition.to_lowercase();
    let condition = json!({"type": judgement.condition, "status": "True", "reason": judgement.reason,
        "message": format!("This CSR was {done} by kubectl certificate {}.", judgement.verb),
        "lastUpdateTime": base::clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
    let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.push(condition);
    object["status"]["conditions"] = json!(conditions);
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judgement_is_final() {
        let approve = Judgement { condition: "Approved", opposite: "Denied", reason: "R", verb: "approve" };
        let mut object = json!({"metadata": {"name": "x"}});
        assert!(!judged(&mut object, &approve).unwrap());
        assert_eq!(
            object["status"]["conditions"][0]["message"],
            "This CSR was approved by kubectl certificate approve."
        );
        assert!(judged(&mut object, &approve).unwrap());
        let deny = Judgement { condition: "Denied", opposite: "Approved", reason: "R", verb: "deny" };
        assert_eq!(
            judged(&mut object, &deny).unwrap_err().to_string(),
            "error: certificate signing request \"x\" is already Approved"
        );
    }
}
