//! Turns: drivers that share a thread receive one after the other, each followed by the calls it wakes.
//!
//! # Why
//! A runtime of one thread runs its tasks in the order in which they were woken. With hundreds of busy
//! connections that is all drivers first, which store thousands of replies, and then all the calls that
//! wait for these: whatever a driver has touched is long out of the caches when its calls run. With
//! turns the calls of one connection run next. (The order, and what it brings: docs, tuning.)
//!
//! # How
//! A driver that has looked stands in line instead of waking itself. The *caller*, a task of the
//! same runtime, wakes so many at the head of the line that they deliver some [`DELIVERED`] replies,
//! wakes itself, and so runs again behind the calls that were woken meanwhile. Who stands in line and
//! is polled for another reason waits on: everybody comes round.
//!
//! # Invariant: the line moves
//! While somebody stands in line, the caller has been woken and will be polled: it parks only when the
//! line is empty, by leaving its waker, under the line's lock, to whoever joins next. It belongs to the
//! runtime of those that stand in line, so it stops only when they do. A driver that is dropped leaves
//! a waker in line that wakes nobody.

use crate::link::let_others_run;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use tokio::runtime::{Handle, Id, RuntimeFlavor};

/// Replies that are delivered before the calls that they are for run: their tasks, and what they touch,
/// are to fit into the caches that a core has for itself.
const DELIVERED: usize = 256;

/// Drivers that look without turns: what so few and their calls touch stays in the caches anyway.
const FEW: usize = 32;

/// Drivers that are called together at most, however little they deliver.
const CALLED: usize = 1024;

/// The turns of each runtime that has any.
static ALL: Mutex<Vec<(Id, Weak<Turns>)>> = Mutex::new(Vec::new());

/// The turns of one runtime's drivers.
#[derive(Debug, Default)]
pub(super) struct Turns {
    line: Mutex<Line>,
    /// Drivers that do not sleep.
    looking: AtomicUsize,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waker>,
    /// Drivers that have joined so far, and that have been called.
    joined: u64,
    called: u64,
    /// Replies that those delivered who were called last.
    delivered: usize,
    /// Whether there is a caller. Few connections never need one.
    has_caller: bool,
    /// The caller's, while nobody stands in line.
    parked: Option<Waker>,
}

impl Turns {
    /// Those of the runtime that this is called in, if it is one of a single thread.
    pub(super) fn of_this_runtime() -> Option<Arc<Self>> {
        let runtime = Handle::try_current().ok()?;
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return None;
        }
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, turns)| turns.strong_count() > 0);
        let known = all.iter().find(|(id, _)| *id == runtime.id());
        if let Some(turns) = known.and_then(|(_, turns)| turns.upgrade()) {
            return Some(turns);
        }
        let turns = Arc::new(Self::default());
        all.push((runtime.id(), Arc::downgrade(&turns)));
        Some(turns)
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turns {
    /// The caller sees that nobody is left.
    fn drop(&mut self) {
        let line = self.line.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = line.parked.take() {
            caller.wake();
        }
    }
}

/// A driver's part in the turns.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    /// Its number among those that joined the line.
    ticket: Option<u64>,
    is_looking: bool,
}

impl Turn {
    pub(super) fn new(turns: Arc<Turns>) -> Self {
        Self {
            turns,
            ticket: None,
            is_looking: false,
        }
    }

    /// The driver is polled: whether it stands in line, and has not been called.
    pub(super) fn is_waiting(&mut self) -> bool {
        if self
            .ticket
            .is_some_and(|ticket| ticket >= self.turns.lock().called)
        {
            return true;
        }
        self.ticket = None;
        if !std::mem::replace(&mut self.is_looking, true) {
            self.turns.looking.fetch_add(1, Ordering::Relaxed);
        }
        false
    }

    /// Has the driver called when it is its turn again, after it delivered so many replies. `false`
    /// where there are too few for turns: it must see to its being polled itself. To be called by its
    /// task.
    pub(super) fn join(&mut self, waker: &Waker, delivered: usize) -> bool {
        if self.turns.looking.load(Ordering::Relaxed) <= FEW {
            return false;
        }
        let mut line = self.turns.lock();
        self.ticket = Some(line.joined);
        line.joined += 1;
        line.delivered += delivered;
        line.waiting.push_back(waker.clone());
        let parked = line.parked.take();
        let has_caller = std::mem::replace(&mut line.has_caller, true);
        drop(line);
        if let Some(caller) = parked {
            caller.wake();
        }
        if !has_caller {
            tokio::spawn(Caller::new(&self.turns));
        }
        true
    }

    /// The driver sleeps.
    pub(super) fn rest(&mut self) {
        if std::mem::take(&mut self.is_looking) {
            self.turns.looking.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.rest();
    }
}

/// The task that calls drivers, until none is left.
#[derive(Debug)]
struct Caller {
    turns: Weak<Turns>,
    /// How many it calls together.
    together: usize,
    /// Those that it calls; keeps its memory.
    called: Vec<Waker>,
}

impl Caller {
    fn new(turns: &Arc<Turns>) -> Self {
        Self {
            turns: Arc::downgrade(turns),
            together: 1,
            called: Vec::new(),
        }
    }
}

impl Future for Caller {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(turns) = this.turns.upgrade() else {
            return Poll::Ready(());
        };
        let mut line = turns.lock();
        let delivered = std::mem::take(&mut line.delivered);
        if delivered > DELIVERED {
            this.together = (this.together * DELIVERED / delivered).max(1);
        } else if delivered < DELIVERED / 2 {
            this.together = (this.together * 2).min(CALLED);
        }
        let together = this.together.min(line.waiting.len());
        this.called.extend(line.waiting.drain(..together));
        line.called += together as u64;
        if together == 0 {
            line.parked = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(line);
        this.called.drain(..).for_each(Waker::wake);
        if delivered == 0 {
            let_others_run(cx);
        } else {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, Runtime};
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
    use tokio::task::{JoinSet, yield_now};

    /// More than look without turns.
    const MANY: usize = FEW + 8;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Event {
        /// A driver looked.
        Looked(usize),
        /// A call that it woke ran.
        Ran(usize),
    }

    type Events = Arc<Mutex<Vec<Event>>>;

    fn runtime() -> Runtime {
        Builder::new_current_thread().build().unwrap()
    }

    /// Does what a driver does that delivers many replies at each look.
    struct Looker {
        number: usize,
        turn: Turn,
        looks: usize,
        call: UnboundedSender<()>,
        events: Events,
    }

    impl Future for Looker {
        type Output = ();

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let this = self.get_mut();
            if this.turn.is_waiting() {
                return Poll::Pending;
            }
            if this.looks == 0 {
                return Poll::Ready(());
            }
            this.looks -= 1;
            this.events.lock().unwrap().push(Event::Looked(this.number));
            this.call.send(()).unwrap();
            if !this.turn.join(cx.waker(), DELIVERED) {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        }
    }

    /// So many drivers that look so often, and a call of each. To be called in a runtime.
    fn start(count: usize, looks: usize, events: &Events) -> JoinSet<()> {
        let mut lookers = JoinSet::new();
        for number in 0..count {
            let (call, mut woken) = unbounded_channel();
            lookers.spawn(Looker {
                number,
                turn: Turn::new(Turns::of_this_runtime().unwrap()),
                looks,
                call,
                events: events.clone(),
            });
            let events = events.clone();
            lookers.spawn(async move {
                while woken.recv().await.is_some() {
                    events.lock().unwrap().push(Event::Ran(number));
                }
            });
        }
        lookers
    }

    /// How many others looked between a driver's look and the run of its call, at most, and how often
    /// each driver looked: the least and the most. Of the middle of it, when all drivers are there.
    fn order(events: &[Event]) -> (usize, usize, usize) {
        let events = &events[events.len() / 4..events.len() / 4 * 3];
        let mut looks = [0; MANY];
        let mut others = 0;
        for (place, event) in events.iter().enumerate() {
            if let Event::Looked(number) = *event {
                looks[number] += 1;
                let later = &events[place + 1..];
                if let Some(ran) = later.iter().position(|later| *later == Event::Ran(number)) {
                    let between = later[..ran].iter();
                    let looked = between.filter(|event| matches!(event, Event::Looked(_)));
                    others = others.max(looked.count());
                }
            }
        }
        let (least, most) = (looks.iter().min(), looks.iter().max());
        (others, *least.unwrap(), *most.unwrap())
    }

    #[test]
    fn calls_run_before_the_next_driver_looks_and_everybody_comes_round() {
        let events = Events::default();
        runtime().block_on(async { start(MANY, 100, &events).join_all().await });
        let (others, least, most) = order(&events.lock().unwrap());
        assert!(others <= 1, "{others} others looked before a call ran");
        assert!(least > 40 && most - least <= 2, "{least} to {most} looks");
    }

    #[test]
    fn few_look_without_turns() {
        let events = Events::default();
        runtime().block_on(async {
            start(FEW, 100, &events).join_all().await;
            let turns = Turns::of_this_runtime().unwrap();
            assert!(!turns.lock().has_caller);
        });
    }

    #[test]
    fn who_is_gone_holds_nobody_up_and_nothing_is_left() {
        runtime().block_on(async {
            for _ in 0..3 {
                let events = Events::default();
                let turns = Turns::of_this_runtime().unwrap();
                let mut gone = start(2 * MANY, usize::MAX, &events);
                let stay = start(MANY, 100, &events);
                for _ in 0..10 {
                    yield_now().await;
                }
                let waiting = turns.lock().waiting.len();
                assert!(waiting > MANY, "{waiting} stand in line");
                gone.abort_all();
                while gone.join_next().await.is_some() {}
                stay.join_all().await;
                while turns.lock().parked.is_none() {
                    yield_now().await;
                }
            }
            // The caller sees that nobody is left.
            yield_now().await;
            assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
        });
    }

    #[test]
    fn runtimes_of_one_thread_do_not_wait_for_each_other() {
        let events = Events::default();
        let (one, other) = (runtime(), runtime());
        // Stands in line, and is not run any more for now.
        let stopped = one.block_on(async {
            let lookers = start(MANY, 100, &events);
            for _ in 0..10 {
                yield_now().await;
            }
            lookers
        });
        other.block_on(async { start(MANY, 100, &events).join_all().await });
        one.block_on(stopped.join_all());
    }
}
