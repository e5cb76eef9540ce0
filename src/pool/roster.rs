//! The connections of a pool: which one a call goes to, which are to be opened, which to be given
//! up. Nothing here waits, connects or asks for the time.
//!
//! ```text
//!                        opened()
//!   connecting ──────────────────────▶ in use ◀──▶ stalled (health check; only if nothing else)
//!       ▲  │ failed(): backoff            │            │
//!       └──┘                              │ idle, or replaced because it was old or stalled,
//!                                         │ or the server drains
//!                  peer gone              ▼
//!       over ◀─────────────────────── finishing: no new calls; closes with the last one
//! ```

use super::backoff::{Backoff, Delay, Delays};
use crate::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection that was lost sooner than this counts as another failure to connect, so that a
/// server that takes connections and drops them is not asked as fast as it can do so.
const SETTLED: Duration = Duration::from_millis(100);

/// The part of a pool's settings that the roster goes by.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) min_idle: usize,
    pub(super) max_size: usize,
    pub(super) grow_at: usize,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) ping_every: Option<Duration>,
    pub(super) backoff: Backoff,
}

/// Counts what is in flight on a connection without keeping it; `None` when it is gone.
pub(super) type Remainder = Box<dyn Fn() -> Option<usize> + Send + Sync>;

/// What the roster wants to know of a connection.
pub(super) trait Connection: Clone {
    /// Calls in flight; `None` if no more can be made.
    fn load(&self) -> Option<usize>;

    fn remainder(&self) -> Remainder;
}

/// A connection in the roster.
#[derive(Debug)]
struct Member<C> {
    connection: C,
    id: u64,
    opened: Instant,
    expires: Option<Instant>,
    /// A call was given to it since the last look.
    used: bool,
    /// A call was in flight at the last look.
    loaded: bool,
    /// No earlier than its last call ended, and no more than the time between two looks later.
    quiet_since: Instant,
    ping_at: Option<Instant>,
    /// The last ping was not answered in time.
    stalled: bool,
}

/// What the pool's supervisor is to do, and when to look again at the latest.
#[derive(Debug)]
pub(super) struct Look<C> {
    /// Open a connection, and say how it went ([`Roster::opened`], [`Roster::failed`]).
    pub(super) open: bool,
    /// Ping these, and say how it went ([`Roster::pinged`]).
    pub(super) ping: Vec<(u64, C)>,
    /// To be dropped without the lock.
    pub(super) given_up: Vec<C>,
    pub(super) again_at: Option<Instant>,
}

/// Where a call goes.
#[derive(Debug)]
pub(super) struct Choice<C> {
    pub(super) connection: C,
    pub(super) id: u64,
    /// The supervisor is to look: all are busy and there may be more.
    pub(super) grow: bool,
}

/// What a pool consists of at a moment, and what it has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Connections that calls are given to.
    pub open: usize,
    /// Those of them that have no call in flight.
    pub idle: usize,
    /// Calls in flight, on whichever connection.
    pub in_flight: usize,
    /// Connections that get no new calls and close with the last that is in flight.
    pub finishing: usize,
    /// Calls that wait for a connection because there is none.
    pub waiting: usize,
    /// Whether a connection is being opened.
    pub connecting: bool,
    /// Connections opened in place of one that the server ended, by dying or draining.
    pub reconnects: u64,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// Calls that went to another connection because theirs was over and nothing was executed.
    pub moved: u64,
    /// Idempotent calls made again because their connection died in flight.
    pub retried: u64,
}

pub(super) struct Roster<C> {
    rules: Rules,
    members: Vec<Member<C>>,
    finishing: Vec<Remainder>,
    next_id: u64,
    /// A connection is being opened.
    connecting: bool,
    /// A call found all connections busy.
    grow: bool,
    /// Connections that the server ended and that were not replaced yet.
    lost: u64,
    delays: Delays,
    /// No attempt to connect before, while calls wait and while none does.
    not_before: Option<(Instant, Instant)>,
    pub(super) last_error: Option<Arc<Error>>,
    /// The pool is gone, or its runtime is.
    pub(super) over: bool,
    pub(super) waiting: usize,
    reconnects: u64,
    connect_failures: u64,
    pub(super) moved: u64,
    pub(super) retried: u64,
}

impl<C: Connection> Roster<C> {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            delays: Delays::new(rules.backoff),
            rules,
            members: Vec::new(),
            finishing: Vec::new(),
            next_id: 0,
            connecting: false,
            grow: false,
            lost: 0,
            not_before: None,
            last_error: None,
            over: false,
            waiting: 0,
            reconnects: 0,
            connect_failures: 0,
            moved: 0,
            retried: 0,
        }
    }

    /// The connection with the fewest calls in flight; of several, the first, so that the others
    /// can fall idle. Stalled ones come last.
    pub(super) fn choose(&mut self) -> Option<Choice<C>> {
        let mut least: Option<(bool, usize, usize)> = None;
        for (place, member) in self.members.iter().enumerate() {
            if let Some(load) = member.connection.load() {
                let rank = (member.stalled, load, place);
                if least.is_none_or(|least| rank < least) {
                    least = Some(rank);
                }
            }
        }
        let (_, load, place) = least?;
        let grow = load >= self.rules.grow_at
            && self.members.len() < self.rules.max_size
            && !self.connecting
            && !std::mem::replace(&mut self.grow, true);
        let member = &mut self.members[place];
        member.used = true;
        Some(Choice {
            connection: member.connection.clone(),
            id: member.id,
            grow,
        })
    }

    /// A connection turned out to be of no use: its server takes no more calls on it.
    #[must_use]
    pub(super) fn discard(&mut self, now: Instant, id: u64) -> Option<C> {
        let place = self.members.iter().position(|member| member.id == id)?;
        Some(self.lose(now, place))
    }

    /// Goes through everything at a moment.
    pub(super) fn look(&mut self, now: Instant) -> Look<C> {
        let mut given_up = Vec::new();
        if self.over {
            given_up.extend(self.members.drain(..).map(|member| member.connection));
            return Look {
                open: false,
                ping: Vec::new(),
                given_up,
                again_at: None,
            };
        }
        self.finishing.retain(|in_flight| in_flight().is_some());
        for place in (0..self.members.len()).rev() {
            let Some(load) = self.members[place].connection.load() else {
                given_up.push(self.lose(now, place));
                continue;
            };
            let member = &mut self.members[place];
            // A call that was there at the last look may have ended a moment ago.
            let was_loaded = std::mem::replace(&mut member.loaded, load > 0);
            if std::mem::take(&mut member.used) || was_loaded || load > 0 {
                member.quiet_since = now;
            }
        }
        // From the end: calls prefer those in front.
        for place in (0..self.members.len()).rev() {
            let member = &self.members[place];
            let idle = self
                .rules
                .idle_timeout
                .is_some_and(|time| now >= member.quiet_since + time);
            // One that is due to be replaced anyway need not be, if nobody uses it.
            let outdated = member.is_outdated(now) && member.quiet_since < now;
            if (idle || outdated) && self.members.len() > self.rules.min_idle {
                given_up.push(self.retire(place));
            }
        }
        let too_few = self.members.len() < self.rules.min_idle;
        let none = self.members.is_empty() && self.waiting > 0;
        let growing = self.grow && self.members.len() < self.rules.max_size;
        let outdated = self.members.iter().any(|member| member.is_outdated(now));
        self.grow = growing;
        let wanted = !self.connecting && (too_few || none || growing || outdated);
        let not_before = self.not_before.map(|(wanted, quiet)| match self.waiting {
            0 => quiet,
            _ => wanted,
        });
        let open = wanted && not_before.is_none_or(|time| now >= time);
        self.connecting |= open;
        let retry_at = not_before.filter(|_| wanted && !open);
        let ping = self.due_pings(now);
        Look {
            open,
            ping,
            given_up,
            again_at: self.next_look(now).into_iter().chain(retry_at).min(),
        }
    }

    fn due_pings(&mut self, now: Instant) -> Vec<(u64, C)> {
        let mut due = Vec::new();
        for member in &mut self.members {
            if member.ping_at.is_some_and(|time| now >= time) {
                // Until the answer, or the lack of it, is known.
                member.ping_at = None;
                due.push((member.id, member.connection.clone()));
            }
        }
        due
    }

    /// When something is due that no event announces.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        let superfluous = self.members.len() > self.rules.min_idle;
        let idle_look = |member: &Member<C>| {
            let time = self.rules.idle_timeout.filter(|_| superfluous)?;
            // Use since the last look is noticed late by a quarter of the time.
            Some((member.quiet_since + time).min(now + time / 4))
        };
        self.members
            .iter()
            .flat_map(|member| {
                let expiry = member.expires.filter(|time| *time > now);
                [expiry, idle_look(member), member.ping_at]
            })
            .flatten()
            .min()
    }

    /// A connection was opened. Returns the one that it replaces, if any.
    #[must_use]
    pub(super) fn opened(&mut self, now: Instant, connection: C, jitter: f64) -> Option<C> {
        self.connecting = false;
        self.grow = false;
        self.not_before = None;
        self.last_error = None;
        if self.lost > 0 {
            self.lost -= 1;
            self.reconnects += 1;
        }
        let place = self.members.iter().position(|m| m.is_outdated(now));
        let replaced = place.map(|place| self.retire(place));
        self.members.push(Member {
            connection,
            id: self.next_id,
            opened: now,
            // Up to a tenth earlier, so that connections opened together do not end together.
            expires: self
                .rules
                .max_lifetime
                .map(|time| now + time.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 10.0)),
            used: false,
            loaded: false,
            quiet_since: now,
            ping_at: self.rules.ping_every.map(|time| now + time),
            stalled: false,
        });
        self.next_id += 1;
        replaced
    }

    /// An attempt to connect failed.
    pub(super) fn failed(&mut self, now: Instant, error: Error) {
        self.connecting = false;
        // Whoever finds all busy the next time asks again.
        self.grow = false;
        self.connect_failures += 1;
        let delay = self.delays.after(&error);
        self.hold_off(now, delay);
        self.last_error = Some(Arc::new(error));
    }

    /// How a ping went.
    pub(super) fn pinged(&mut self, now: Instant, id: u64, answered: bool) {
        if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
            member.stalled = !answered;
            member.ping_at = self.rules.ping_every.map(|time| now + time);
        }
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = &C> {
        self.members.iter().map(|member| &member.connection)
    }

    pub(super) fn stats(&self) -> PoolStats {
        let loads = self.members.iter().map(|member| member.connection.load());
        let finishing: Vec<usize> = self.finishing.iter().filter_map(|load| load()).collect();
        PoolStats {
            open: loads.clone().flatten().count(),
            idle: loads.clone().flatten().filter(|load| *load == 0).count(),
            in_flight: loads.flatten().chain(finishing.iter().copied()).sum(),
            finishing: finishing.len(),
            waiting: self.waiting,
            connecting: self.connecting,
            reconnects: self.reconnects,
            connect_failures: self.connect_failures,
            moved: self.moved,
            retried: self.retried,
        }
    }

    /// The server has ended this one.
    fn lose(&mut self, now: Instant, place: usize) -> C {
        self.lost += 1;
        if now >= self.members[place].opened + SETTLED {
            self.delays = Delays::new(self.rules.backoff);
            self.not_before = None;
        } else {
            let delay = self.delays.after_loss();
            self.hold_off(now, delay);
        }
        self.retire(place)
    }

    /// No calls any more for this one; it closes with the last in flight.
    fn retire(&mut self, place: usize) -> C {
        let connection = self.members.remove(place).connection;
        self.finishing.push(connection.remainder());
        connection
    }

    fn hold_off(&mut self, now: Instant, delay: Delay) {
        self.not_before = Some((now + delay.wanted, now + delay.quiet));
    }
}

impl<C> Member<C> {
    /// Whether another is to take its place.
    fn is_outdated(&self, now: Instant) -> bool {
        self.stalled || self.expires.is_some_and(|time| now >= time)
    }
}
