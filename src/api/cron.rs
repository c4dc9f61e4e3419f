//! Schedules of CronJobs, read as Go's `robfig/cron` reads its standard form.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

/// How far ahead a time is looked for: 31 February never comes.
const YEARS: i16 = 5;
/// Marks a field that was given as `*`.
const STAR: u64 = 1 << 63;

/// When something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    zone: Option<String>,
    times: Times,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Times {
    Fields(Fields),
    Every(SignedDuration),
}

/// The values that fit, a bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
}

/// What a field may hold: the least and the most, and names from the least on.
struct Bounds(u32, u32, &'static str);

const MINUTE: Bounds = Bounds(0, 59, "");
const HOUR: Bounds = Bounds(0, 23, "");
const DAY: Bounds = Bounds(1, 31, "");
const MONTH: Bounds = Bounds(1, 12, "jan feb mar apr may jun jul aug sep oct nov dec");
const WEEKDAY: Bounds = Bounds(0, 6, "sun mon tue wed thu fri sat");

impl Schedule {
    /// Reads cron's five fields, a word such as `@daily`, or `@every 5m`, after a zone in front if there is
    /// one (`TZ=Asia/Tokyo 0 9 * * *`). An error is a sentence in that library's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let prefixed = text.strip_prefix("TZ=").or(text.strip_prefix("CRON_TZ="));
        let (zone, text) = match prefixed {
            Some(rest) => rest.split_once(' ').map_or((None, ""), |(zone, rest)| (Some(zone), rest.trim())),
            None => (None, text),
        };
        let times = match text.strip_prefix('@') {
            _ if text.is_empty() => return Err("empty spec string".to_owned()),
            Some(word) => described(word)?,
            None => Times::Fields(Fields::parse(text)?),
        };
        Ok(Self { zone: zone.map(str::to_owned), times })
    }

    /// The zone in front of the schedule.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The first time after another; `None` if there is none for years. `zone` is where the clock hangs that
    /// the fields are about.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let second = Timestamp::from_second(after.as_second()).ok()?;
        match &self.times {
            Times::Every(delay) => second.checked_add(*delay).ok(),
            Times::Fields(fields) => {
                fields.next(second.checked_add(SignedDuration::from_secs(1)).ok()?.to_zoned(zone.clone()))
            }
        }
    }
}

fn described(word: &str) -> Result<Times, String> {
    let fields = match word {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        other => {
            let text =
                other.strip_prefix("every ").ok_or_else(|| format!("unrecognized descriptor: @{word}"))?;
            return every(text)
                .ok_or_else(|| format!("failed to parse duration @{word}: time: invalid duration {text:?}"));
        }
    };
    Fields::parse(fields).map(Times::Fields)
}

/// Whole seconds, one at the least.
fn every(text: &str) -> Option<Times> {
    // The parser of durations knows spellings that Go does not, which all have other signs.
    let go = text.bytes().all(|sign| sign.is_ascii_digit() || b"+-.hmsun".contains(&sign));
    let delay: SignedDuration = text.parse().ok().filter(|_| go)?;
    Some(Times::Every(SignedDuration::from_secs(delay.as_secs().max(1))))
}

impl Fields {
    fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
        };
        Ok(Self {
            minute: MINUTE.read(minute)?,
            hour: HOUR.read(hour)?,
            day: DAY.read(day)?,
            month: MONTH.read(month)?,
            weekday: WEEKDAY.read(weekday)?,
        })
    }

    /// The first time from `time` on, which is a whole second. What does not fit is skipped, the longest
    /// part first; hours and minutes are skipped as they pass, also where clocks are put forward or back.
    fn next(&self, mut time: Zoned) -> Option<Timestamp> {
        let last = time.year() + YEARS;
        while time.year() <= last {
            let (minute, second) = (i64::from(time.minute()), i64::from(time.second()));
            time = if !has(self.month, time.month()) {
                time.last_of_month().ok()?.tomorrow().ok()?.start_of_day().ok()?
            } else if !self.has_day(&time) {
                time.tomorrow().ok()?.start_of_day().ok()?
            } else if !has(self.hour, time.hour()) {
                time.checked_add(SignedDuration::from_secs(3600 - minute * 60 - second)).ok()?
            } else if !has(self.minute, time.minute()) || second > 0 {
                time.checked_add(SignedDuration::from_secs(60 - second)).ok()?
            } else {
                return Some(time.timestamp());
            };
        }
        None
    }

    /// Where both the day of the month and the weekday are restricted, one of them is enough.
    fn has_day(&self, time: &Zoned) -> bool {
        let day = has(self.day, time.day());
        let weekday = has(self.weekday, time.weekday().to_sunday_zero_offset());
        if (self.day | self.weekday) & STAR > 0 { day && weekday } else { day || weekday }
    }
}

fn has(field: u64, value: i8) -> bool {
    field & (1 << value) > 0
}

impl Bounds {
    /// A list of ranges.
    fn read(&self, text: &str) -> Result<u64, String> {
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts.map(|part| self.range(part)).try_fold(0, |all, part| Ok(all | part?))
    }

    /// `*`, `5`, `5-10`, each also with `/2`; `5/2` goes up to the most.
    fn range(&self, text: &str) -> Result<u64, String> {
        let (range, step) = text.split_once('/').map_or((text, None), |(range, step)| (range, Some(step)));
        if step.is_some_and(|step| step.contains('/')) {
            return Err(format!("too many slashes: {text}"));
        }
        let parts: Vec<&str> = range.split('-').collect();
        let (first, mut last, star) = match parts[..] {
            ["*" | "?", ..] => (self.0, self.1, true),
            [one] => (self.value(one)?, self.value(one)?, false),
            [first, last] => (self.value(first)?, self.value(last)?, false),
            _ => return Err(format!("too many hyphens: {text}")),
        };
        let width = step.map_or(Ok(1), number)?;
        if step.is_some() && parts.len() == 1 {
            last = self.1;
        }
        self.check(first, last, text)?;
        if width == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        let bits = (first..=last).step_by(width as usize).fold(0, |bits, value| bits | 1 << value);
        Ok(if star && width == 1 { bits | STAR } else { bits })
    }

    fn check(&self, first: u32, last: u32, text: &str) -> Result<(), String> {
        let Self(least, most, _) = self;
        if first < *least {
            return Err(format!("beginning of range ({first}) below minimum ({least}): {text}"));
        }
        if last > *most {
            return Err(format!("end of range ({last}) above maximum ({most}): {text}"));
        }
        if first > last {
            return Err(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
        }
        Ok(())
    }

    fn value(&self, text: &str) -> Result<u32, String> {
        let named = self.2.split(' ').position(|name| !name.is_empty() && name == text.to_ascii_lowercase());
        named.map_or_else(|| number(text), |index| Ok(u32::try_from(index).unwrap_or(0) + self.0))
    }
}

fn number(text: &str) -> Result<u32, String> {
    let number: i64 = text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })?;
    if number < 0 {
        return Err(format!("negative number ({number}) not allowed: {text}"));
    }
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The three times that follow 2026-01-30 12:34:56 UTC.
    fn times(text: &str) -> String {
        let (schedule, mut time) =
            (Schedule::parse(text).unwrap(), "2026-01-30T12:34:56.7Z".parse().unwrap());
        let mut next = || {
            time = schedule.next(time, &TimeZone::UTC).unwrap();
            time.strftime("%m-%d %H:%M:%S").to_string()
        };
        [next(), next(), next()].join(", ")
    }

    #[test]
    fn times_follow_the_fields() {
        let table = [
            ("* * * * *", "01-30 12:35:00, 01-30 12:36:00, 01-30 12:37:00"),
            ("*/25 * * * *", "01-30 12:50:00, 01-30 13:00:00, 01-30 13:25:00"),
            ("10/20 0 * * ?", "01-31 00:10:00, 01-31 00:30:00, 01-31 00:50:00"),
            ("0 9-17/4 * * MON-fri", "01-30 13:00:00, 01-30 17:00:00, 02-02 09:00:00"),
            ("0 0 31 * *", "01-31 00:00:00, 03-31 00:00:00, 05-31 00:00:00"),
            ("0 0 29 2 *", "02-29 00:00:00, 02-29 00:00:00, 02-29 00:00:00"),
            // Either is enough where both are given; with a step a star is no longer one.
            ("0 0 1 * sun", "02-01 00:00:00, 02-08 00:00:00, 02-15 00:00:00"),
            ("0 0 */10 * sun", "01-31 00:00:00, 02-01 00:00:00, 02-08 00:00:00"),
            ("5,,7 1 1,2 JAN,feb *", "02-01 01:05:00, 02-01 01:07:00, 02-02 01:05:00"),
            ("@hourly", "01-30 13:00:00, 01-30 14:00:00, 01-30 15:00:00"),
            ("@weekly", "02-01 00:00:00, 02-08 00:00:00, 02-15 00:00:00"),
            ("@annually", "01-01 00:00:00, 01-01 00:00:00, 01-01 00:00:00"),
            ("@every 1h0m2.5s", "01-30 13:34:58, 01-30 14:35:00, 01-30 15:35:02"),
        ];
        for (text, wanted) in table {
            assert_eq!(times(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_never_comes_is_not_waited_for() {
        let never = Schedule::parse("59 23 31 2 *").unwrap();
        assert_eq!(never.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
    }

    /// Daily at 2:30 where clocks go forward from 2 to 3 on 29 March, and back from 3 to 2 on 25 October.
    #[test]
    fn clocks_that_are_put_forward_and_back() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let schedule = Schedule::parse("30 2 * * *").unwrap();
        let next = |text: &str| schedule.next(text.parse().unwrap(), &zone).unwrap().to_string();
        assert_eq!(next("2026-03-28T12:00:00Z"), "2026-03-30T00:30:00Z");
        assert_eq!(next("2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(next("2026-10-25T00:30:00Z"), "2026-10-25T01:30:00Z");
    }

    #[test]
    fn zones_stand_in_front() {
        let schedule = Schedule::parse("CRON_TZ=Asia/Tokyo  @daily").unwrap();
        assert_eq!(schedule.zone(), Some("Asia/Tokyo"));
        assert_eq!(Schedule::parse("TZ=UTC"), Err("empty spec string".to_owned()));
    }

    #[test]
    fn what_is_no_schedule_is_refused_in_gos_words() {
        let table = [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("*/1/2 * * * *", "too many slashes: */1/2"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
            (
                "@every 5 minutes",
                "failed to parse duration @every 5 minutes: time: invalid duration \"5 minutes\"",
            ),
        ];
        for (text, wanted) in table {
            assert_eq!(Schedule::parse(text), Err(wanted.to_owned()), "{text}");
        }
    }
}
