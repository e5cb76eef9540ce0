//! The time of day in a process in which somebody sets it all the time. No system lets a test do that to one
//! process, so this takes the place of the C library's function, which std and whoever else is linked in here call.

use crate::caller::KINDS;
use crate::census::{Census, files};
use crate::clocks::deadlines_hold;
use crate::kills::rest;
use crate::ledger::Ledger;
use crate::server::NAME;
use crate::support::child::{Commands, Settings};
use crate::support::{PATIENCE, eventually, within_async};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

/// As the C library has it where words have 64 bits.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

type GetTime = extern "C" fn(i32, *mut Timespec) -> i32;

static JUMPS: AtomicBool = AtomicBool::new(false);
static LOOKS: AtomicI64 = AtomicI64::new(0);

/// From now on the time of day is years from what it was, now ahead and now behind, at every look.
fn begin() {
    JUMPS.store(true, Relaxed);
    let [before, after] = [(), ()].map(|()| SystemTime::now());
    let apart = before
        .duration_since(after)
        .unwrap_or_else(|later| later.duration());
    assert!(apart > Duration::from_secs(86_400), "it does not jump");
}

fn ordinary() -> GetTime {
    unsafe extern "C" {
        fn dlsym(library: *mut u8, name: *const std::ffi::c_char) -> Option<GetTime>;
    }
    // RTLD_NEXT: behind this program's own.
    let next = std::ptr::without_provenance_mut(usize::MAX);
    // SAFETY: the name is a C string, and the function under it has this type.
    unsafe { dlsym(next, c"clock_gettime".as_ptr()) }.expect("a C library")
}

#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: i32, time: *mut Timespec) -> i32 {
    static ORDINARY: std::sync::OnceLock<GetTime> = std::sync::OnceLock::new();
    let result = ORDINARY.get_or_init(ordinary)(clock, time);
    // CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_TAI.
    if result == 0 && JUMPS.load(Relaxed) && matches!(clock, 0 | 5 | 11) {
        let years = LOOKS.fetch_add(1, Relaxed) % 7 - 3;
        // SAFETY: the system wrote there.
        unsafe { (*time).seconds += years * 365 * 86_400 };
    }
    result
}

/// As [`crate::server::serve`], where the time of day jumps.
pub fn server(settings: &Settings, commands: Commands) {
    begin();
    crate::server::serve(settings, commands);
}

/// As [`crate::caller::run`], where the time of day jumps.
pub fn caller(settings: &Settings, commands: Commands) {
    begin();
    crate::caller::run(settings, commands);
}

#[test]
fn a_time_of_day_that_jumps_changes_nothing() {
    let ledger = Ledger::new();
    let path = [("ledger", ledger.path())];
    let server = ledger.place.start_ready("server whose clock jumps", &path);
    let numbers = ["10", "11", "12"];
    let callers: Vec<_> = KINDS
        .into_iter()
        .zip(numbers)
        .map(|(kind, number)| {
            let settings = [path[0], ("number", number), ("kind", kind)];
            let role = "caller whose clock jumps";
            ledger.place.start_ready(role, &settings)
        })
        .collect();
    let call = |time| {
        callers.iter().for_each(|caller| caller.tell("go"));
        std::thread::sleep(time);
        callers.iter().for_each(|caller| drop(rest(caller)));
        eventually("the server lets go of all", || {
            server.ask("connections") == "0"
        });
    };
    // What they use when they have called and rest.
    call(Duration::from_millis(50));
    let before: Vec<_> = callers
        .iter()
        .chain([&server])
        .map(Census::at_rest)
        .collect();
    call(Duration::from_millis(500));
    let summary = ledger.check(|_| true);
    eprintln!("while the time of day jumped: {summary:?}");
    assert!(summary.answered > 100, "{summary:?}");
    // Only what was given up.
    assert_eq!(summary.not, 0, "{summary:?}");
    let name = ledger.place.socket(NAME);
    within_async(PATIENCE, "a clock that jumps", async move {
        deadlines_hold(&name).await;
    });
    for (process, before) in callers.iter().chain([&server]).zip(&before) {
        before.recurs(process);
    }
    server.tell("shutdown 0");
    server.expect("shut down");
    assert!(files(ledger.place.path()).is_empty());
}
