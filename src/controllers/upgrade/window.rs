//! When nodes may be begun.

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Window {
    days: Vec<String>,
    start_time: Option<String>,
    end_time: Option<String>,
    time_zone: Option<String>,
}

fn weekday(name: &str) -> Option<Weekday> {
    let days = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let at = days.iter().position(|day| *day == name)?;
    Weekday::from_monday_zero_offset(i8::try_from(at).ok()?).ok()
}

fn time(text: Option<&String>, default: Time) -> Result<Time, String> {
    text.map_or(Ok(default), |text| {
        Time::strptime("%H:%M", text).map_err(|error| format!("{text:?}: {error}"))
    })
}

/// Whether a window is open; there is none that never is. An error says what is wrong with it.
pub(super) fn is_open(window: Option<&Window>, now: Timestamp) -> Result<bool, String> {
    let Some(window) = window else { return Ok(true) };
    let zone = window.time_zone.as_deref().unwrap_or("UTC");
    let zone = TimeZone::get(zone).map_err(|_| format!("there is no time zone {zone:?} on this machine"))?;
    let start = time(window.start_time.as_ref(), Time::midnight())?;
    let end = time(window.end_time.as_ref(), Time::MAX)?;
    let now = now.to_zoned(zone).datetime();
    let on =
        |day: Weekday| window.days.is_empty() || window.days.iter().any(|name| weekday(name) == Some(day));
    let today = now.date();
    let yesterday = today.checked_sub(1.day()).map_err(|error| error.to_string())?;
    Ok(if start <= end {
        on(today.weekday()) && start <= now.time() && now.time() <= end
    } else {
        // It goes past midnight, and is of the day on which it begins.
        (on(today.weekday()) && start <= now.time()) || (on(yesterday.weekday()) && now.time() <= end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn windows_open_by_their_days_and_times() {
        let open = |window: serde_json::Value, now: &str| {
            let window: Window = serde_json::from_value(window).unwrap();
            is_open(Some(&window), now.parse().unwrap())
        };
        // A Saturday.
        let night = json!({"days": ["saturday"], "startTime": "22:00", "endTime": "04:00"});
        for (now, wanted) in [
            ("2026-11-28T21:59:00Z", false),
            ("2026-11-28T22:00:00Z", true),
            ("2026-11-29T03:59:00Z", true),
            ("2026-11-29T04:01:00Z", false),
            ("2026-11-28T03:00:00Z", false),
        ] {
            assert_eq!(open(night.clone(), now), Ok(wanted), "{now}");
        }
        assert_eq!(open(json!({}), "2026-11-28T12:00:00Z"), Ok(true));
        let day = json!({"startTime": "08:00", "endTime": "10:00"});
        assert_eq!(open(day.clone(), "2026-11-28T09:00:00Z"), Ok(true));
        assert_eq!(open(day, "2026-11-28T11:00:00Z"), Ok(false));
        assert!(open(json!({"timeZone": "Nowhere/Here"}), "2026-11-28T11:00:00Z").is_err());
        assert_eq!(is_open(None, Timestamp::UNIX_EPOCH), Ok(true));
    }
}
