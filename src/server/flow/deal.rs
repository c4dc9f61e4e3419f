//! Shuffle sharding: every flow is dealt a hand of queues, so that two flows seldom share all of theirs.

/// The largest hand: 60 bits of entropy, which is all that validation lets a hand use, deal no larger one.
const MOST: usize = 60;

/// The queues of a flow.
#[derive(Debug)]
pub(super) struct Hand {
    cards: [u32; MOST],
    count: usize,
}

impl std::ops::Deref for Hand {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.cards[..self.count]
    }
}

/// Deals `hand` different cards of a deck, chosen by the bits of `hash`.
pub(super) fn deal(hash: u64, deck: u32, hand: u32) -> Hand {
    let mut dealt = Hand { cards: [0; MOST], count: (hand.min(deck) as usize).min(MOST) };
    let mut places = [0; MOST];
    let mut rest = hash;
    for (place, left) in (0..dealt.count).zip((1..=deck).rev()) {
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of a 32 bit number")]
        let remainder = (rest % u64::from(left)) as u32;
        rest /= u64::from(left);
        places[place] = remainder;
        // It counts among the cards that are left: those dealt before are stepped over, latest first.
        dealt.cards[place] =
            places[..place].iter().rev().fold(remainder, |card, before| card + u32::from(card >= *before));
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn hands_have_different_cards_of_the_deck() {
        for (deck, hand) in [(1, 1), (4, 4), (64, 6), (128, 6), (16, 4)] {
            for hash in (0..1000_u64).map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
                let dealt = deal(hash, deck, hand);
                let cards: HashSet<u32> = dealt.iter().copied().collect();
                assert_eq!(cards.len(), hand as usize, "{dealt:?}");
                assert!(cards.iter().all(|card| *card < deck));
            }
        }
    }

    #[test]
    fn every_card_is_dealt_about_as_often() {
        let mut times = [0_u32; 16];
        for hash in 0..16 * 15 * 14 * 13 {
            deal(hash, 16, 4).iter().for_each(|card| times[*card as usize] += 1);
        }
        assert!(times.iter().all(|one| *one == times[0]), "{times:?}");
    }
}
