//! Nodes that have a pod's images already.

use super::{BEST, Question};
use crate::cycle::Cycle;

/// What images weigh at least, and at most for each container, to matter.
const LEAST_BYTES: i64 = 23 << 20;
const MOST_BYTES: i64 = 1000 << 20;

pub(super) fn known(cycle: &Cycle<'_>) -> bool {
    cycle.images_known
}

pub(super) fn score(question: &Question<'_>) -> i64 {
    let images = &question.wanted().ask.images;
    let nodes = question.cluster.len().max(1) as f64;
    let here = images.iter().filter_map(|image| {
        let (_, size) = question.place.facts.images.iter().find(|(own, _)| own == image)?;
        // An image that few nodes have counts less, so that these few are not overrun.
        let spread = question.cluster.spread_of_image(image) as f64 / nodes;
        #[expect(clippy::cast_possible_truncation, reason = "less than the size, which is whole")]
        let bytes = (*size as f64 * spread) as i64;
        Some(bytes)
    });
    let most = MOST_BYTES * i64::try_from(images.len()).unwrap_or(1).max(1);
    let bytes = here.sum::<i64>().clamp(LEAST_BYTES, most);
    BEST * (bytes - LEAST_BYTES) / (most - LEAST_BYTES)
}
