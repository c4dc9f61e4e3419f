//! Logging: human lines on a terminal, JSON for machines, to standard error.

use std::io::IsTerminal;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One readable line an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is neither \"text\" nor \"json\"")),
        }
    }
}

/// Starts logging for the whole process; a second call changes nothing. INFO is what an operator should know,
/// DEBUG what the rooms decide, TRACE every step.
pub fn start(format: Format, level: LevelFilter) {
    // The libraries underneath speak at debug level about every frame; they keep to warnings.
    let targets = tracing_subscriber::filter::Targets::new().with_default(level).with_targets(
        [
            "hyper",
            "hyper_util",
            "h2",
            "rustls",
            "tower",
            "tonic",
            "hickory_proto",
            "hickory_resolver",
            "hickory_server",
            "netlink_proto",
            "rtnetlink",
        ]
        .map(|target| (target, LevelFilter::WARN)),
    );
    let registry = tracing_subscriber::registry().with(targets);
    let started = match format {
        Format::Json => {
            registry.with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)).try_init()
        }
        Format::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let layer = tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr);
            registry.with(layer).try_init()
        }
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
}
