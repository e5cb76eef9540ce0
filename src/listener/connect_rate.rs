//! How fast one process may connect. Who comes faster waits for its turn, and nobody else does.

use crate::error::Identity;
use crate::rate::{RateLimit, TokenBucket};
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// Processes of which is known how they connected. Those that did not lately are forgotten; what there
/// is beyond them has one bucket together.
const MAX_PEERS: usize = 1024;

/// Clients that may wait: of one process, and in all. Each has a descriptor and nothing else.
const MAX_WAITING_OF_ONE: usize = 1024;
const MAX_WAITING: usize = 4 * MAX_WAITING_OF_ONE;

/// Whose clients share a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    Process(u32),
    /// Where the system does not tell the process, as across PID namespaces.
    User(String),
    /// All for whom there was no place.
    Others,
}

impl From<Identity> for Peer {
    fn from(identity: Identity) -> Self {
        match identity.pid {
            0 => Peer::User(identity.user().to_string()),
            pid => Peer::Process(pid),
        }
    }
}

/// What becomes of a client that has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn<S> {
    Now(S),
    /// [`ConnectRate::next`] has it in time.
    Later,
    /// So many wait already.
    Never(S),
}

/// A process that has connected.
#[derive(Debug)]
struct Known<S> {
    bucket: TokenBucket,
    waiting: VecDeque<S>,
}

/// The processes that connect, and those of their clients that wait.
#[derive(Debug)]
pub(super) struct ConnectRate<S> {
    limit: RateLimit,
    peers: HashMap<Peer, Known<S>>,
    /// Those that have clients that wait: each once.
    queue: VecDeque<Peer>,
    waiting: usize,
}

impl<S> ConnectRate<S> {
    pub(super) fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            peers: HashMap::new(),
            queue: VecDeque::new(),
            waiting: 0,
        }
    }

    /// A client has come.
    pub(super) fn come(&mut self, peer: Peer, client: S, now: Instant) -> Turn<S> {
        let peer = match self.has_place(&peer, now) {
            true => peer,
            false => Peer::Others,
        };
        let new = || Known {
            bucket: TokenBucket::new(self.limit, now),
            waiting: VecDeque::new(),
        };
        let known = self.peers.entry(peer.clone()).or_insert_with(new);
        known.bucket.refill(now);
        // Behind those that came before.
        if known.waiting.is_empty() && known.bucket.tokens() > 0 {
            known.bucket.take(1);
            return Turn::Now(client);
        }
        if known.waiting.len() >= MAX_WAITING_OF_ONE || self.waiting >= MAX_WAITING {
            return Turn::Never(client);
        }
        if known.waiting.is_empty() {
            tracing::debug!(?peer, "a process connects faster than it may");
            self.queue.push_back(peer);
        }
        known.waiting.push_back(client);
        self.waiting += 1;
        Turn::Later
    }

    fn has_place(&mut self, peer: &Peer, now: Instant) -> bool {
        if self.peers.contains_key(peer) || self.peers.len() < MAX_PEERS {
            return true;
        }
        self.peers.retain(|_, known| {
            known.bucket.refill(now);
            !(known.bucket.is_full() && known.waiting.is_empty())
        });
        self.peers.len() < MAX_PEERS
    }

    /// The next of those that wait, if it has its turn.
    pub(super) fn next(&mut self, now: Instant) -> Option<S> {
        for _ in 0..self.queue.len() {
            let peer = self.queue.pop_front()?;
            let Some(known) = self.peers.get_mut(&peer) else {
                continue;
            };
            known.bucket.refill(now);
            let client = match known.bucket.tokens() {
                0 => None,
                _ => known.waiting.pop_front(),
            };
            if client.is_some() {
                known.bucket.take(1);
                self.waiting -= 1;
            }
            if !known.waiting.is_empty() {
                self.queue.push_back(peer);
            }
            if client.is_some() {
                return client;
            }
        }
        None
    }

    /// When [`next`](Self::next) has somebody.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let known = self.queue.iter().filter_map(|peer| self.peers.get(peer));
        known.map(|known| known.bucket.has_at(1)).min()
    }

    /// All that wait.
    pub(super) fn into_waiting(self) -> impl Iterator<Item = S> {
        self.peers.into_values().flat_map(|known| known.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    fn rate(per_second: u32, burst: u32) -> (ConnectRate<u32>, Instant) {
        let limit = RateLimit { per_second, burst };
        (ConnectRate::new(limit), Instant::now())
    }

    #[test]
    fn who_comes_too_fast_waits_in_order_and_others_do_not() {
        let (mut rate, start) = rate(100, 2);
        let (greedy, other) = (Peer::Process(1), Peer::Process(2));
        for n in 0..2 {
            assert_eq!(rate.come(greedy.clone(), n, start), Turn::Now(n));
        }
        assert_eq!(rate.next_at(), None);
        for n in 2..5 {
            assert_eq!(rate.come(greedy.clone(), n, start), Turn::Later);
        }
        assert_eq!(rate.come(other, 100, start), Turn::Now(100));
        assert_eq!(rate.next(start), None);
        assert_eq!(rate.next_at(), Some(start + 10 * MS));
        assert_eq!(rate.next(start + 10 * MS), Some(2));
        assert_eq!(rate.next(start + 10 * MS), None);
        // Nobody overtakes.
        assert_eq!(rate.come(greedy, 5, start + 20 * MS), Turn::Later);
        let later = start + 1000 * MS;
        assert_eq!(rate.next(later), Some(3));
        assert_eq!(rate.next(later), Some(4));
        assert_eq!(rate.next(later), None);
        assert_eq!(rate.next(later + 10 * MS), Some(5));
        assert_eq!((rate.next_at(), rate.waiting), (None, 0));
    }

    #[test]
    fn those_that_wait_are_bounded() {
        let (mut rate, start) = rate(1, 1);
        let mut never = 0;
        for peer in 1..=10 {
            for n in 0..2000 {
                never += usize::from(rate.come(Peer::Process(peer), n, start) == Turn::Never(n));
            }
        }
        assert_eq!(rate.waiting, MAX_WAITING);
        assert_eq!(never, 20_000 - 10 - MAX_WAITING);
        // Who keeps to its rate comes in nevertheless.
        assert_eq!(rate.come(Peer::Process(11), 7, start), Turn::Now(7));
        assert_eq!(rate.into_waiting().count(), MAX_WAITING);
    }

    #[test]
    fn those_that_are_known_are_bounded_and_forgotten_in_time() {
        let (mut rate, start) = rate(1, 1);
        for peer in 1..=2 * MAX_PEERS as u32 {
            rate.come(Peer::Process(peer), peer, start);
            assert!(rate.peers.len() <= MAX_PEERS + 1);
        }
        // The last ones have a bucket together.
        assert_eq!(rate.waiting, MAX_PEERS - 1);
        assert_eq!(rate.peers[&Peer::Others].waiting.len(), MAX_PEERS - 1);
        let later = start + 1000 * MS;
        assert_eq!(rate.come(Peer::Process(0), 1, later), Turn::Now(1));
        assert_eq!(rate.peers.len(), 2);
    }
}
