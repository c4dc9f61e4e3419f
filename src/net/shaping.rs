//! How fast a link sends: a token bucket of the kernel's (`tbf`), as its messages have it.

/// What is sent at once at the least: no packet may be larger than the bucket, also where the kernel joins several.
const LEAST_BURST: u32 = 64 << 10;

/// What may be sent at once at the most, as a part of what is sent in a second: annotations of pods cannot say it, and
/// runtimes then ask for a bucket that hours of sending do not empty.
const BURSTS_A_SECOND: u64 = 10;

/// For how long what is sent may wait before it is dropped.
const LATENCY_MS: u64 = 25;

/// `struct tc_ratespec.linklayer` of Ethernet: the kernel computes times itself.
const ETHERNET: u8 = 1;

/// `TCA_TBF_PARMS`, `TCA_TBF_RATE64`, `TCA_TBF_BURST`.
const PARMS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;

/// A limit of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    bytes_per_s: u64,
    burst: u32,
}

impl Rate {
    /// From what CNI has: bits a second, and bits; none for no limit.
    pub(crate) fn of(bits_per_s: u64, burst_bits: u64) -> Option<Self> {
        let bytes_per_s = bits_per_s.div_ceil(8);
        let most = (bytes_per_s / BURSTS_A_SECOND).max(u64::from(LEAST_BURST));
        let asked = if burst_bits == 0 { most } else { burst_bits / 8 };
        let burst = u32::try_from(asked.min(most)).unwrap_or(u32::MAX).max(LEAST_BURST);
        (bytes_per_s > 0).then_some(Self { bytes_per_s, burst })
    }

    /// So many bytes may wait.
    fn limit(self) -> u32 {
        let waiting = self.bytes_per_s.saturating_mul(LATENCY_MS) / 1_000;
        u32::try_from(waiting.saturating_add(u64::from(self.burst))).unwrap_or(u32::MAX)
    }

    /// The discipline's options: number and value.
    pub(crate) fn options(self) -> Vec<(u16, Vec<u8>)> {
        let mut options = vec![(PARMS, self.parameters()), (BURST, self.burst.to_ne_bytes().into())];
        if self.bytes_per_s >= u64::from(u32::MAX) {
            options.push((RATE64, self.bytes_per_s.to_ne_bytes().into()));
        }
        options
    }

    /// `struct tc_tbf_qopt`: the rate, no peak rate, limit, buffer and mtu. The buffer is told as bytes beside it.
    fn parameters(self) -> Vec<u8> {
        const SPEC: usize = 12;
        let mut rate = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
        rate.extend(u32::try_from(self.bytes_per_s).unwrap_or(u32::MAX).to_ne_bytes());
        let numbers = [self.limit(), self.burst, 0];
        rate.into_iter().chain([0; SPEC]).chain(numbers.into_iter().flat_map(u32::to_ne_bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bytes_and_bursts_are_bounded() {
        assert_eq!(Rate::of(0, 100), None);
        let slow = Rate::of(1_000_000, u64::from(u32::MAX)).unwrap();
        assert_eq!(slow, Rate { bytes_per_s: 125_000, burst: LEAST_BURST });
        assert_eq!(slow.limit(), LEAST_BURST + 3_125);
        let fast = Rate::of(80_000_000_000, 0).unwrap();
        assert_eq!((fast.bytes_per_s, fast.burst), (10_000_000_000, 1_000_000_000));
        assert_eq!(
            Rate::of(80_000_000, 8_000_000).unwrap().burst,
            1_000_000,
            "what is asked for, if it is less"
        );
    }

    #[test]
    fn options_are_as_the_kernel_reads_them() {
        let options = Rate::of(1_000_000, 0).unwrap().options();
        assert_eq!(
            options.iter().map(|(kind, value)| (*kind, value.len())).collect::<Vec<_>>(),
            [(1, 36), (6, 4)]
        );
        assert_eq!((options[0].1[1], &options[0].1[8..12]), (ETHERNET, &125_000_u32.to_ne_bytes()[..]));
        assert_eq!(
            Rate::of(80_000_000_000, 0).unwrap().options().len(),
            3,
            "a rate that 32 bits do not hold"
        );
    }
}
