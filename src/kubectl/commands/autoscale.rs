//! `kubectl autoscale`: a HorizontalPodAutoscaler of something that can be scaled.

use crate::choice::{Choice, Found, each};
use crate::error::Error;
use crate::session::Session;
use crate::writing::{Writing, with_own_annotation};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

#[derive(Args)]
pub(crate) struct Autoscale {
    /// KIND NAME or KIND/NAME
    words: Vec<String>,
    #[command(flatten)]
    files: crate::args::Files,
    #[command(flatten)]
    writing: Writing,
    /// The least replicas
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    min: i32,
    /// The most replicas
    #[arg(long, allow_negative_numbers = true)]
    max: Option<i32>,
    /// The processor time to keep, as a part of what is requested (80%) or as a quantity (500m)
    #[arg(long)]
    cpu: Option<String>,
    /// The memory to keep, likewise
    #[arg(long)]
    memory: Option<String>,
    /// The percentage of --cpu
    #[arg(long, hide = true, allow_negative_numbers = true)]
    cpu_percent: Option<i32>,
    /// The autoscaler's name
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Remember the configuration for a later apply
    #[arg(long)]
    save_config: bool,
}

pub(crate) async fn run(session: &Session, args: &Autoscale) -> Result<(), Error> {
    if args.cpu_percent.is_some() {
        eprintln!(
            "Flag --cpu-percent has been deprecated, Use --cpu with percentage or resource quantity format (e.g., '70%' for utilization or '500m' for milliCPU)."
        );
    }
    super::create::required(&[("max", args.max.is_some())])?;
    let most = args.max.unwrap_or_default();
    if most < 1 {
        return Err(Error::plain(format!("--max=MAXPODS is required and must be at least 1, max: {most}")));
    }
    if most < args.min {
        return Err(Error::plain(format!(
            "--max=MAXPODS must be larger or equal to --min=MINPODS, max: {most}, min: {}",
            args.min
        )));
    }
    if args.cpu_percent.is_some_and(|percent| percent > 0) && args.cpu.is_some() {
        return Err(Error::plain("--cpu-percent and --cpu are mutually exclusive"));
    }
    let writer = args.writing.open("kubectl-autoscale")?;
    let choice = Choice { files: args.files.clone(), ..Choice::of(args.words.clone(), "") };
    each(choice.read(session, false).await?, async |found: Found| {
        let scale = format!("{}/scale", found.path());
        if let Err(error) = session.get(&scale).await {
            let resource = &found.resource;
            return Err(match error.is_not_found() {
                true => Error::plain(format!(
                    "cannot autoscale a {}: could not find scale subresource for {}/{}, Resource={} in discovery information",
                    resource.kind, resource.group, resource.version, resource.plural
                )),
                false => error,
            });
        }
        let mut autoscaler = autoscaler(args, &found, most)?;
        if session.namespace_given {
            autoscaler["metadata"]["namespace"] = json!(session.namespace);
        }
        if args.save_config && !writer.is_client() {
            autoscaler = with_own_annotation(&session.caused(&autoscaler));
        }
        let resource = session.discovery().await?.find("horizontalpodautoscalers.autoscaling")?;
        if !writer.is_client() {
            let path = writer.path(&resource.path(&session.namespace));
            autoscaler = session.write(Method::POST, &path, &autoscaler).await?;
        }
        // kubectl prints each by itself.
        writer.printer.anew();
        writer.done(resource, &autoscaler, "autoscaled")
    })
    .await
}

fn autoscaler(args: &Autoscale, found: &Found, most: i32) -> Result<Value, Error> {
    let name = if args.name.is_empty() { &found.name } else { &args.name };
    let mut spec = json!({"maxReplicas": most, "scaleTargetRef": {"apiVersion": found.resource.api_version(),
        "kind": found.resource.kind, "name": found.name}});
    if args.min > 0 {
        spec["minReplicas"] = json!(args.min);
    }
    let percent = args.cpu_percent.filter(|percent| *percent > 0).map(|percent| format!("{percent}%"));
    let cpu = args.cpu.clone().or(percent);
    let asked = [("cpu", cpu), ("memory", args.memory.clone())];
    let metrics = asked
        .into_iter()
        .filter_map(|(resource, text)| Some((resource, text?)))
        .map(|(resource, text)| metric(resource, &text))
        .collect::<Result<Vec<_>, _>>()?;
    if !metrics.is_empty() {
        spec["metrics"] = json!(metrics);
    }
    Ok(json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name},
        "spec": spec, "status": {"currentMetrics": null, "desiredReplicas": 0}}))
}

fn metric(resource: &str, text: &str) -> Result<Value, Error> {
    let target = match text.strip_suffix('%') {
        Some(percent) => {
            let percent: i32 = percent.parse().ok().filter(|percent| *percent > 0).ok_or_else(|| {
                Error::plain(format!(
                    "invalid {resource} percentage value {text:?}: it must be a positive whole number"
                ))
            })?;
            json!({"type": "Utilization", "averageUtilization": percent})
        }
        None => {
            // A bare number is one of millicores, or of mebibytes.
            let unit = if resource == "cpu" { "m" } else { "Mi" };
            let whole = if text.parse::<f64>().is_ok() { format!("{text}{unit}") } else { text.to_owned() };
            let quantity = api::quantity::canonical(&whole)
                .map_err(|_| Error::plain(format!("invalid resource {resource} value: {text}")))?;
            json!({"type": "AverageValue", "averageValue": quantity})
        }
    };
    Ok(json!({"type": "Resource", "resource": {"name": resource, "target": target}}))
}
