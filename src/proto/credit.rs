//! Credits: how the reader of a stream holds its sender back.
//!
//! One credit pays for [`CREDIT_UNIT`] bytes of payload, begun units counting whole, so credits
//! bound the reader's memory whatever the size of the items. An item may be sent while the
//! balance is above zero and may overdraw it: an item costlier than the whole window still gets
//! through. What a reader can be made to hold per stream is therefore the credits it granted
//! times [`CREDIT_UNIT`], plus one message.

/// Bytes of payload that one credit pays for.
pub const CREDIT_UNIT: u64 = 64 * 1024;

/// What a stream item of `payload_len` bytes costs: at least one credit.
#[inline]
pub const fn credit_cost(payload_len: u64) -> u64 {
    let units = payload_len.div_ceil(CREDIT_UNIT);
    if units == 0 { 1 } else { units }
}

/// The sender's account for one direction of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreditBalance {
    credits: i64,
}

impl CreditBalance {
    /// An account that starts with the credits granted in the handshake.
    pub const fn new(initial: u32) -> CreditBalance {
        CreditBalance {
            credits: initial as i64,
        }
    }

    /// Books a CREDIT frame.
    #[inline]
    pub const fn grant(&mut self, credits: u32) {
        self.credits = self.credits.saturating_add(credits as i64);
    }

    /// Whether the next item may be sent now.
    #[inline]
    pub const fn may_send(&self) -> bool {
        self.credits > 0
    }

    /// Books an item of `payload_len` bytes and returns `true`, or returns `false` and the item
    /// must wait for a CREDIT frame.
    #[inline]
    pub const fn spend(&mut self, payload_len: u64) -> bool {
        if !self.may_send() {
            return false;
        }
        // At most 2^48 units, from a balance of at least 1: no underflow.
        self.credits -= credit_cost(payload_len) as i64;
        true
    }

    /// Credits left; negative when an item overdrew them.
    pub const fn credits(&self) -> i64 {
        self.credits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_cost_their_begun_units() {
        assert_eq!(credit_cost(0), 1);
        assert_eq!(credit_cost(1), 1);
        assert_eq!(credit_cost(CREDIT_UNIT), 1);
        assert_eq!(credit_cost(CREDIT_UNIT + 1), 2);
        assert_eq!(credit_cost(u64::MAX), 1 << 48);
    }

    #[test]
    fn a_large_item_overdraws_once_and_then_waits() {
        let mut balance = CreditBalance::new(2);
        assert!(balance.spend(1));
        assert!(balance.spend(10 * CREDIT_UNIT));
        assert_eq!(balance.credits(), -9);
        balance.grant(9);
        assert!(!balance.spend(0));
        balance.grant(1);
        assert!(balance.spend(0));
        assert!(!balance.may_send());
        balance.grant(1);
        assert!(balance.spend(u64::MAX));
        assert!(!balance.may_send());
    }
}
