//! Waits until deleted objects are really gone, by watching them.

use crate::discovery::Resource;
use crate::error::Error;
use crate::session::{JSON, Session, with_query};
use crate::watch::Lines;
use std::time::Duration;

/// An object that is on its way out.
pub(crate) struct Gone {
    pub(crate) resource: Resource,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// "" if the server did not say: then any object of the name is waited for.
    pub(crate) uid: String,
}

/// Waits for all of them, in total for as long as `timeout` (such as `30s`; `0s` is for ever).
pub(crate) async fn all(session: &Session, objects: &[Gone], timeout: &str) -> Result<(), Error> {
    let limit = duration(timeout)?;
    let deadline =
        base::clock::instant() + if limit.is_zero() { Duration::from_secs(7 * 24 * 3600) } else { limit };
    for object in objects {
        match tokio::time::timeout_at(deadline, one(session, object)).await {
            Ok(ended) => ended?,
            Err(_) => {
                return Err(Error::plain(format!(
                    "timed out waiting for the condition on {}/{}",
                    object.resource.plural, object.name
                )));
            }
        }
    }
    Ok(())
}

async fn one(session: &Session, object: &Gone) -> Result<(), Error> {
    loop {
        let live = match session.get(&object.resource.object(&object.namespace, &object.name)).await {
            Ok(live) => live,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        if !object.uid.is_empty() && live["metadata"]["uid"] != object.uid.as_str() {
            return Ok(());
        }
        let revision = live["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let name = format!("metadata.name={}", object.name);
        let path = with_query(
            &object.resource.path(&object.namespace),
            &[("watch", "true"), ("fieldSelector", &name), ("resourceVersion", revision)],
        );
        let mut events = Lines::open(session, &path, JSON).await?;
        // A watch that ends by itself is begun again from the object as it is then.
        while let Ok(Some(event)) = events.next().await {
            if event["type"] == "DELETED" {
                return Ok(());
            }
        }
    }
}

/// `30s`, `5m`, `1h30m`, or a bare number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, Error> {
    let bad = || Error::plain(format!("invalid duration {text:?}: use such as 30s, 5m or 1h"));
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|sign: char| !sign.is_ascii_digit() && sign != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest.find(|sign: char| sign.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        rest = &rest[unit..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_writes_them() {
        let seconds = |text: &str| duration(text).unwrap().as_secs_f64();
        assert_eq!(
            (seconds("30s"), seconds("1h30m"), seconds("1.5s"), seconds("20")),
            (30.0, 5400.0, 1.5, 20.0)
        );
        assert!(duration("soon").is_err() && duration("5x").is_err());
    }
}
