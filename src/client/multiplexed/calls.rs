//! The calls of a connection that have a place.

use crate::error::Small;
use crate::proto::credit::CreditBalance;
use std::collections::VecDeque;
use std::ops::{Index, IndexMut};
use std::task::Waker;
use std::time::Instant;

/// Bytes of a cache line. A wrong guess costs speed only.
pub(super) const LINE: usize = 64;

/// The number of no call: its lower half would be a place beyond all.
const VACANT: u64 = u64::MAX;

/// A call that has a place. One line of memory: with thousands of calls in flight each one counts.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Slot {
    /// The call's number on the wire.
    pub(super) id: u64,
    pub(super) waker: Option<Waker>,
    /// How the call ended, until it is claimed.
    pub(super) end: Option<Small<Reply>>,
    /// For a call that is timed or has streams.
    pub(super) rare: Option<Box<Rare>>,
    /// The place that was left before this one, while nobody has this one.
    next_vacant: usize,
}

const _: () = assert!(size_of::<Slot>() == LINE);

impl Slot {
    pub(super) fn items(&mut self) -> Option<&mut ItemQueue> {
        self.rare.as_mut()?.items.as_mut()
    }

    #[inline]
    pub(super) fn upload(&mut self) -> Option<&mut Upload> {
        self.rare.as_mut()?.upload.as_mut()
    }
}

/// What few calls have.
#[derive(Debug)]
pub(super) struct Rare {
    /// When it began, if its time is sampled.
    pub(super) began: Option<Instant>,
    /// For calls that are answered by a stream.
    pub(super) items: Option<ItemQueue>,
    /// For calls that send a stream.
    pub(super) upload: Option<Upload>,
}

/// Items that arrived and were not taken.
#[derive(Debug)]
pub(super) struct ItemQueue {
    pub(super) items: VecDeque<Vec<u8>>,
    /// What the server may still send.
    pub(super) balance: CreditBalance,
    /// Credits of items that were taken, not yet granted again.
    pub(super) taken: u32,
}

/// The caller's stream to the server.
#[derive(Debug)]
pub(super) struct Upload {
    /// What may still be sent.
    pub(super) balance: CreditBalance,
    /// Who waits to send.
    pub(super) waker: Option<Waker>,
    pub(super) finished: bool,
}

/// A reply that was not claimed yet.
#[derive(Debug)]
pub(super) enum Reply {
    Owned(Vec<u8>),
    /// So many bytes of the place's [`ShortReply`].
    Short(usize),
}

/// Room for a reply of one line. The memory that the caller is given for it is allocated when it is
/// claimed: then it is mostly what the last caller has just freed. Hundreds of replies that are
/// allocated before the first is freed leave the allocator's cache, and every line is another.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct ShortReply(pub(super) [u8; LINE]);

/// Calls by their places. The place that was left last is taken first: its lines are at hand.
///
/// A `Slab` does the same, but moves what it holds in and out. A call is written where it lies: what is
/// put together elsewhere is loaded again in other pieces than it was stored in, and such a load
/// waits for all stores before it, those into the ring included (docs: tuning).
#[derive(Debug, Default)]
pub(super) struct Calls {
    slots: Vec<Slot>,
    /// As many as there are slots.
    short: Vec<ShortReply>,
    /// The place that was left last; beyond all if none was.
    vacant: usize,
    len: usize,
}

impl Calls {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Gives a call a place, and a number that says which, and tells apart those that have it one
    /// after the other.
    #[inline]
    pub(super) fn insert(&mut self, generation: u32, rare: Option<Box<Rare>>) -> (usize, u64) {
        if self.vacant == self.slots.len() {
            self.grow();
        }
        let key = self.vacant;
        let id = u64::from(generation) << 32 | key as u64;
        let slot = &mut self.slots[key];
        self.vacant = slot.next_vacant;
        slot.id = id;
        slot.rare = rare;
        self.len += 1;
        (key, id)
    }

    #[cold]
    fn grow(&mut self) {
        self.slots.push(Slot {
            id: VACANT,
            waker: None,
            end: None,
            rare: None,
            next_vacant: self.slots.len() + 1,
        });
        self.short.push(ShortReply([0; LINE]));
    }

    /// Takes a call out. What is rare about it may still be of use.
    ///
    /// # Panics
    /// If no call has the place.
    #[inline]
    pub(super) fn remove(&mut self, key: usize) -> Option<Box<Rare>> {
        let vacant = self.vacant;
        let slot = &mut self[key];
        slot.id = VACANT;
        slot.waker = None;
        slot.end = None;
        slot.next_vacant = vacant;
        let rare = slot.rare.take();
        self.vacant = key;
        self.len -= 1;
        rare
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, key: usize) -> Option<&mut Slot> {
        self.slots.get_mut(key).filter(|slot| slot.id != VACANT)
    }

    /// The call with this number, if it is still there, and its place for a short reply. The number is
    /// what the peer says.
    #[inline(always)]
    pub(super) fn find(&mut self, id: u64) -> Option<(&mut Slot, &mut ShortReply)> {
        let key = id as u32 as usize;
        let slot = self.slots.get_mut(key).filter(|slot| slot.id == id)?;
        Some((slot, self.short.get_mut(key)?))
    }

    /// Takes a call's reply, as its caller is to have it.
    ///
    /// # Panics
    /// If no call has the place.
    #[inline(always)]
    pub(super) fn claim(&mut self, key: usize) -> Option<Small<Vec<u8>>> {
        let end = self[key].end.take()?;
        Some(end.map(|reply| match reply {
            Reply::Owned(payload) => payload,
            Reply::Short(len) => self.short[key].0[..len].to_vec(),
        }))
    }

    /// All that have a place.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().filter(|slot| slot.id != VACANT)
    }
}

impl Index<usize> for Calls {
    type Output = Slot;

    #[inline(always)]
    fn index(&self, key: usize) -> &Slot {
        let slot = &self.slots[key];
        assert!(slot.id != VACANT, "no call has this place");
        slot
    }
}

impl IndexMut<usize> for Calls {
    #[inline(always)]
    fn index_mut(&mut self, key: usize) -> &mut Slot {
        let slot = &mut self.slots[key];
        assert!(slot.id != VACANT, "no call has this place");
        slot
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn the_place_that_was_left_last_is_taken_first_and_by_a_call_with_another_number() {
        let mut calls = Calls::default();
        let ids: Vec<u64> = (1..4)
            .map(|generation| calls.insert(generation, None).1)
            .collect();
        assert_eq!(ids, [1 << 32, 2 << 32 | 1, 3 << 32 | 2]);
        calls.remove(0);
        calls.remove(2);
        assert_eq!(calls.len(), 1);
        assert!(calls.get_mut(0).is_none() && calls.get_mut(1).is_some());
        assert_eq!(calls.iter_mut().count(), 1);
        let again: Vec<_> = (4..7)
            .map(|generation| calls.insert(generation, None))
            .collect();
        assert_eq!(
            again.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
            [2, 0, 3]
        );
        assert!(calls.find(ids[2]).is_none(), "the one before it");
        assert!(calls.find(again[0].1).is_some());
        assert_eq!(calls.len(), 4);
    }

    #[test]
    fn no_number_of_the_peers_finds_a_place_that_nobody_has() {
        let mut calls = Calls::default();
        let (key, id) = calls.insert(7, None);
        calls.remove(key);
        for wrong in [0, id, id + 1, VACANT, VACANT << 32, u64::from(u32::MAX)] {
            assert!(calls.find(wrong).is_none(), "{wrong:#x}");
        }
    }

    #[test]
    fn what_a_call_leaves_behind_the_next_one_does_not_find() {
        let mut calls = Calls::default();
        let (key, id) = calls.insert(1, None);
        let (slot, short) = calls.find(id).unwrap();
        short.0[..3].copy_from_slice(b"one");
        slot.end = Some(Ok(Reply::Short(3)));
        slot.waker = Some(Waker::noop().clone());
        assert_eq!(calls.claim(key).unwrap().unwrap(), b"one");
        assert!(calls.claim(key).is_none(), "once");
        calls[key].end = Some(Ok(Reply::Owned(b"two".to_vec())));
        calls.remove(key);
        let (again, _) = calls.insert(2, None);
        assert_eq!(again, key);
        assert!(calls[key].waker.is_none() && calls.claim(key).is_none());
    }

    #[test]
    #[should_panic(expected = "no call has this place")]
    fn a_place_is_not_left_twice() {
        let mut calls = Calls::default();
        let (key, _) = calls.insert(1, None);
        calls.remove(key);
        calls.remove(key);
    }
}
