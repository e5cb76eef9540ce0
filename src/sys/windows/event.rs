//! Events, the system's objects for waiting.

use super::{Handle, security};
use std::io;
use std::os::windows::io::{
    AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle, RawHandle,
};
use std::time::Duration;
use windows_sys::Win32::Foundation::{WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Threading::{
    CreateEventW, EVENT_MODIFY_STATE, INFINITE, ResetEvent, SetEvent, WaitForMultipleObjects,
};

/// Something that is signalled or not.
#[derive(Debug)]
pub(crate) struct Event(OwnedHandle);

/// How an event stops being signalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reset {
    /// When one waiter was released.
    Auto,
    /// When it is said.
    Manual,
}

impl Event {
    /// An event that is not signalled.
    pub(super) fn new(reset: Reset) -> io::Result<Self> {
        let attributes = security::Attributes::nobody()?;
        let manual = i32::from(reset == Reset::Manual);
        // SAFETY: the attributes live until the call is over; there is no name.
        let handle = unsafe { CreateEventW(attributes.as_ptr(), manual, 0, std::ptr::null()) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the system has just made the handle for us; nobody else has it.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(handle) }))
    }

    pub(super) fn set(&self) {
        // SAFETY: the handle is open.
        unsafe { SetEvent(self.raw()) };
    }

    pub(super) fn reset(&self) {
        // SAFETY: the handle is open.
        unsafe { ResetEvent(self.raw()) };
    }

    /// A handle that can set the event and do nothing else.
    pub(super) fn for_setting(&self) -> io::Result<Handle> {
        security::duplicate(self.0.as_handle(), EVENT_MODIFY_STATE).map(Handle)
    }

    /// Blocks until it is signalled or `timeout` is over (`None`: for ever). Returns whether it is.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        Ok(wait_for_any(&[self], timeout)?.is_some())
    }

    pub(super) fn raw(&self) -> RawHandle {
        self.0.as_raw_handle()
    }
}

impl AsHandle for Event {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.0.as_handle()
    }
}

/// Sets whatever event a peer gave the handle of. Errors are the peer's affair.
pub(super) fn set_foreign(event: BorrowedHandle<'_>) {
    // SAFETY: the handle is open; if it is not one of an event, the system says so and does nothing.
    unsafe { SetEvent(event.as_raw_handle()) };
}

/// Blocks until one of a few events is signalled, and returns the first that is. `None`: the time is
/// over.
pub(super) fn wait_for_any(
    events: &[&Event],
    timeout: Option<Duration>,
) -> io::Result<Option<usize>> {
    let mut handles = [std::ptr::null_mut(); 4];
    for (handle, event) in handles.iter_mut().zip(events) {
        *handle = event.raw();
    }
    let count = events.len().min(handles.len()) as u32;
    // SAFETY: the first `count` handles are those of open events.
    let woken = unsafe { WaitForMultipleObjects(count, handles.as_ptr(), 0, millis(timeout)) };
    match woken {
        WAIT_TIMEOUT => Ok(None),
        index if index - WAIT_OBJECT_0 < count => Ok(Some((index - WAIT_OBJECT_0) as usize)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The system counts in milliseconds; a part of one is a whole one, so that nobody spins.
pub(super) fn millis(timeout: Option<Duration>) -> u32 {
    match timeout {
        None => INFINITE,
        // The greatest value means for ever.
        Some(time) => {
            let millis = time.as_nanos().div_ceil(1_000_000);
            u32::try_from(millis).unwrap_or(INFINITE).min(INFINITE - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_auto_reset_event_releases_one_waiter() {
        let event = Event::new(Reset::Auto).unwrap();
        let no_time = Some(Duration::ZERO);
        assert!(!event.wait(no_time).unwrap());
        event.set();
        event.set();
        assert!(event.wait(None).unwrap());
        assert!(!event.wait(no_time).unwrap());
    }

    #[test]
    fn the_peers_handle_can_only_set() {
        let event = Event::new(Reset::Manual).unwrap();
        let handle = event.for_setting().unwrap();
        set_foreign(handle.as_handle());
        assert!(event.wait(Some(Duration::ZERO)).unwrap());
        let peers = Event(handle.into());
        assert!(peers.wait(Some(Duration::ZERO)).is_err());
    }

    #[test]
    fn times_are_rounded_up() {
        assert_eq!(millis(None), INFINITE);
        assert_eq!(millis(Some(Duration::ZERO)), 0);
        assert_eq!(millis(Some(Duration::from_nanos(1_000_001))), 2);
        assert_eq!(millis(Some(Duration::MAX)), INFINITE - 1);
    }
}
