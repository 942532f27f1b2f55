//! Values of records: text as services write it, which compresses about as well as theirs.

/// Bytes of text, after which it begins anew. More than any compression looks back within a batch of
/// the usual size.
const TEXT_BYTES: usize = 1 << 20;

/// Makes values of one size.
#[derive(Clone, Debug)]
pub(super) struct Values {
    text: Vec<u8>,
    bytes: usize,
    /// Where values may begin, in values; a power of two less one.
    places_mask: u64,
}

impl Values {
    pub(super) fn new(bytes: usize) -> Self {
        const ITEMS: [&str; 8] = [
            "anchor",
            "rudder",
            "mainsail",
            "compass",
            "halyard",
            "bilge pump",
            "cleat",
            "sextant",
        ];
        let mut text = Vec::with_capacity(TEXT_BYTES + bytes + 256);
        let mut state = 0;
        while text.len() < TEXT_BYTES + bytes {
            state += 1;
            let (id, more) = (mix(state), mix(!state));
            let item = ITEMS[(more % 8) as usize];
            let (customer, cents, count) = (more >> 40, (more >> 16) % 100_000, more >> 3 & 15);
            let line = format!(
                "{{\"order\":\"{id:016x}\",\"customer\":{customer},\"item\":\"{item}\",\
                 \"count\":{count},\"cents\":{cents},\"status\":\"placed\"}}\n"
            );
            text.extend_from_slice(line.as_bytes());
        }
        let places = (TEXT_BYTES / bytes.max(1)).max(1);
        Self { text, bytes, places_mask: (1 << places.ilog2()) - 1 }
    }

    /// The value of a record.
    pub(super) fn get(&self, number: u64) -> &[u8] {
        let from = (number & self.places_mask) as usize * self.bytes;
        self.text.get(from..from + self.bytes).unwrap_or_default()
    }
}

/// A number for each number, as by chance: SplitMix64.
pub(super) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_differ() {
        for bytes in [0, 1, 100, 1_024, TEXT_BYTES, 3 * TEXT_BYTES] {
            let values = Values::new(bytes);
            assert!((0..2_000).all(|number| values.get(number).len() == bytes), "{bytes}");
        }
        let values = Values::new(100);
        assert_ne!(values.get(0), values.get(1));
    }
}
