//! Being called when an event is signalled, for any number of events: the system's thread pool waits
//! for them (by wait-completion packets on one completion port, since Windows 8).
//!
//! The `polling` crate offers the same behind its completion port, but registers each wait anew
//! after every signal, and leaks a closure with every wait that is removed.

use super::check;
use super::event::Event;
use std::cell::Cell;
use std::ffi::c_void;
use std::fmt;
use std::io;
use std::os::windows::io::RawHandle;
use std::ptr::null_mut;
use std::sync::Arc;
use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Threading::{
    INFINITE, RegisterWaitForSingleObject, UnregisterWaitEx, WT_EXECUTEINWAITTHREAD,
    WT_EXECUTEONLYONCE,
};

/// How often a watch calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    /// The first time that the event is signalled.
    Once,
    /// Each time. For auto-reset events only: another one is signalled again at once.
    Always,
}

/// A watch over an event, which ends when this is dropped.
pub(super) struct Watch {
    wait: RawHandle,
    callback: *mut Callback,
    /// Open as long as the system waits for it.
    _event: Arc<Event>,
}

type Callback = Box<dyn Fn() + Send + Sync>;

thread_local! {
    // Clippy does not see that it is const on systems whose thread locals the standard library makes.
    #[allow(clippy::missing_const_for_thread_local)]
    /// Whether this thread is inside a watch's callback.
    static CALLED: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: the wait handle belongs to the process, not to a thread, and the callback is Send and
// Sync; both are touched in the drop only.
unsafe impl Send for Watch {}
// SAFETY: as above.
unsafe impl Sync for Watch {}

impl Watch {
    /// Has `callback` called, by a thread of the system's, when `event` is signalled. It must be
    /// short and must not panic.
    pub(super) fn new(
        event: &Arc<Event>,
        times: Times,
        callback: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let callback: Callback = Box::new(callback);
        let callback = Box::into_raw(Box::new(callback));
        let mut flags = WT_EXECUTEINWAITTHREAD;
        if times == Times::Once {
            flags |= WT_EXECUTEONLYONCE;
        }
        let mut wait = null_mut();
        // SAFETY: the event stays open as long as the watch (`_event`), and the callback's memory is
        // freed only when the system is done with it (`end`), or below, when it never began.
        let registered = check(unsafe {
            RegisterWaitForSingleObject(
                &mut wait,
                event.raw(),
                Some(call),
                callback.cast(),
                INFINITE,
                flags,
            )
        });
        if let Err(error) = registered {
            // SAFETY: made above; the system did not take it.
            drop(unsafe { Box::from_raw(callback) });
            return Err(error);
        }
        Ok(Self {
            wait,
            callback,
            _event: event.clone(),
        })
    }
}

// SAFETY: only the system calls it, with the pointer that `Watch::new` registered it with.
unsafe extern "system" fn call(callback: *mut c_void, _timed_out: bool) {
    // SAFETY: what `Watch::new` registered, alive until the watch has ended (`end`).
    let callback = unsafe { &*callback.cast::<Callback>() };
    CALLED.set(true);
    callback();
    CALLED.set(false);
}

/// Ends a wait: afterwards the callback is not running and is not called any more. Blocks for a
/// callback that is.
fn end(wait: RawHandle, callback: *mut Callback) {
    // SAFETY: registered by `Watch::new` and ended only once. The system waits for a callback that
    // is running, so nobody uses its memory afterwards.
    unsafe {
        UnregisterWaitEx(wait, INVALID_HANDLE_VALUE);
        drop(Box::from_raw(callback));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if CALLED.get() {
            // A callback let go of the last thing that kept a watch. It cannot wait for itself, so
            // somebody else has to.
            let (wait, callback) = (
                self.wait.expose_provenance(),
                self.callback.expose_provenance(),
            );
            let event = self._event.clone();
            std::thread::spawn(move || {
                end(
                    std::ptr::with_exposed_provenance_mut(wait),
                    std::ptr::with_exposed_provenance_mut(callback),
                );
                drop(event);
            });
        } else {
            end(self.wait, self.callback);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.wait).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Reset;
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn calls_once_for_each_signal_and_not_after_the_end() {
        let event = Arc::new(Event::new(Reset::Auto).unwrap());
        let (called, calls) = mpsc::channel();
        let watch = Watch::new(&event, Times::Always, move || called.send(()).unwrap()).unwrap();
        for _ in 0..1000 {
            event.set();
            calls.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        assert!(calls.try_recv().is_err());
        drop(watch);
        event.set();
        assert!(event.wait(Some(Duration::ZERO)).unwrap());
    }

    #[test]
    fn more_events_than_one_thread_can_wait_for() {
        let count = Arc::new(AtomicUsize::new(0));
        let events: Vec<_> = (0..300)
            .map(|_| Arc::new(Event::new(Reset::Manual).unwrap()))
            .collect();
        let watches: Vec<_> = events
            .iter()
            .map(|event| {
                let count = count.clone();
                Watch::new(event, Times::Once, move || {
                    count.fetch_add(1, Relaxed);
                })
                .unwrap()
            })
            .collect();
        events.iter().for_each(|event| event.set());
        while count.load(Relaxed) < events.len() {
            std::thread::yield_now();
        }
        drop(watches);
        assert_eq!(count.load(Relaxed), events.len());
    }
}
