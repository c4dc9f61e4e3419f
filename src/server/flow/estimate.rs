//! How many seats a request takes: lists by what they read, writes by who watches (KEP-1040, "Width"). Pure.

use super::queues::Work;
use std::time::Duration;

/// What a list reads for one seat.
const SEAT_BYTES: u64 = 100_000;
/// A list is sent in pieces: it is never in memory as a whole, whatever its size.
const LIST_BYTES: u64 = 1_000_000;
/// The most seats of a list and of a write, where the level says nothing.
const LIST_SEATS: u32 = 100;
const WRITE_SEATS: u32 = 10;
/// So many watches that an event goes to are worth a seat for [`EVENT`].
const WATCHES_PER_SEAT: u32 = 10;
const EVENT: Duration = Duration::from_millis(5);

/// What is known about a request's kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) watches: u32,
}

/// What a request does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    /// Reads so many objects of its kind at the most.
    Lists {
        limit: u64,
    },
    /// Sets off an event.
    Writes,
    Else,
}

/// The seats of a request on a level that lets one take so many.
pub(crate) fn estimate(does: Does, load: Load, widest: Option<u32>) -> Work {
    let most = |limit: u32| widest.map_or(limit, |widest| widest.min(limit));
    match does {
        Does::Lists { limit } => {
            let read = load.objects.min(limit);
            let bytes = (load.bytes / load.objects.max(1)).saturating_mul(read).min(LIST_BYTES);
            let seats = u32::try_from(bytes.div_ceil(SEAT_BYTES)).unwrap_or(LIST_SEATS);
            Work::of(seats.clamp(1, most(LIST_SEATS)))
        }
        Does::Writes if load.watches >= WATCHES_PER_SEAT => {
            let seats = load.watches.div_ceil(WATCHES_PER_SEAT);
            let final_seats = seats.min(most(WRITE_SEATS));
            Work { seats: 1, final_seats, lingers: EVENT * seats / final_seats }
        }
        _ => Work::of(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_cost_what_they_read_and_writes_who_watches() {
        let load = Load { objects: 1000, bytes: 500_000, watches: 9 };
        let all = Does::Lists { limit: u64::MAX };
        assert_eq!(estimate(all, load, None), Work::of(5));
        assert_eq!(estimate(all, load, Some(3)), Work::of(3));
        assert_eq!(estimate(Does::Lists { limit: 10 }, load, None), Work::of(1));
        let huge = Load { objects: 10_000, bytes: 18_000_000, watches: 1000 };
        assert_eq!(estimate(all, huge, None), Work::of(10));
        assert_eq!(estimate(all, Load::default(), None), Work::of(1));
        assert_eq!(estimate(Does::Writes, load, None), Work::of(1));
        assert_eq!(
            estimate(Does::Writes, huge, Some(5)),
            Work { seats: 1, final_seats: 5, lingers: Duration::from_millis(100) }
        );
    }
}
