//! iceoryx2: request and response in shared memory, without copies of its own.

use std::any::Any;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::client::Client;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::{event, request_response};

use crate::drive::blocking::Lane;
use crate::peer::{About, Peer, Setup};

/// What wakes whom.
const EVENT: usize = 0;

/// How often the event-driven server looks whether it is to end.
const TO_THE_END: Duration = Duration::from_millis(50);

/// How long a client waits for the reply's event before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Both sides look at their queues all the time.
pub struct Spinning;

/// Both sides sleep until they are notified.
pub struct EventDriven;

impl Peer for Spinning {
    type Clients = Vec<IceoryxLane>;
    const ABOUT: About = About {
        name: "iceoryx2",
        title: "iceoryx2, spinning",
        spins: true,
        packages: &["iceoryx2"],
        configuration: "Request and response over slices of bytes, `ipc::Service`. Both sides call \
            `receive` in a loop, as its own benchmark does; the server always occupies a core. Declared \
            up front, for each measurement: clients, calls in flight per client and the longest \
            message, so that nothing is allocated later; one response per request; no overflow, \
            senders retry. A request is written into the loan, a response from the request into the \
            response's loan, and the client reads it in place: two copies, where Nearwire makes four.",
        cannot: &[],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        start(setup, false)
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        connect(setup, false)
    }
}

impl Peer for EventDriven {
    type Clients = Vec<IceoryxLane>;
    const ABOUT: About = About {
        name: "iceoryx2-event",
        title: "iceoryx2, event-driven",
        spins: false,
        packages: &["iceoryx2"],
        configuration: "The same service with iceoryx2's events beside it, as in its example \
            `request_response_with_events`: a client notifies the server's listener after a request, \
            the server the client's after the response. Each client has an event service of its \
            own, so that the server need not search for its listener.",
        cannot: &[],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        start(setup, true)
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        connect(setup, true)
    }
}

type Service = request_response::PortFactory<ipc::Service, [u8], u64, [u8], ()>;

/// Errors of the library cannot be sent to other threads.
fn failed(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("iceoryx2: {error:?}")
}

fn node(setup: &Setup) -> Result<Node<ipc::Service>> {
    set_log_level(LogLevel::Error);
    let mut config = Config::default();
    let place = setup.place.join("iceoryx2");
    let place = place.to_str().context("a path that is UTF-8")?;
    config
        .global
        .set_root_path(&Path::new(place.as_bytes()).map_err(failed)?);
    // Names in /dev/shm begin with it: two servers shall not meet.
    let prefix = setup.place.file_name().and_then(|name| name.to_str());
    let prefix = format!("{}_", prefix.context("a place with a name")?);
    config.global.prefix = FileName::new(prefix.as_bytes()).map_err(failed)?;
    NodeBuilder::new()
        .config(&config)
        .signal_handling_mode(SignalHandlingMode::Disabled)
        .create()
        .map_err(failed)
}

fn service(node: &Node<ipc::Service>, setup: &Setup) -> Result<Service> {
    node.service_builder(&"calls".try_into().map_err(failed)?)
        .request_response::<[u8], [u8]>()
        .request_user_header::<u64>()
        .max_clients(setup.connections)
        .max_servers(1)
        // Of the server and of each client process, and of one that is just going.
        .max_nodes(setup.processes + 2)
        .max_active_requests_per_client(setup.window)
        .max_loaned_requests(1)
        .max_response_buffer_size(1)
        .max_borrowed_responses_per_pending_response(1)
        .enable_safe_overflow_for_requests(false)
        .enable_safe_overflow_for_responses(false)
        .enable_fire_and_forget_requests(false)
        .open_or_create()
        .map_err(failed)
}

fn events(
    node: &Node<ipc::Service>,
    setup: &Setup,
    name: &str,
) -> Result<event::PortFactory<ipc::Service>> {
    node.service_builder(&name.try_into().map_err(failed)?)
        .event()
        .max_notifiers(setup.connections + 1)
        .max_listeners(1)
        .max_nodes(setup.processes + 2)
        .event_id_max_value(EVENT + 1)
        .open_or_create()
        .map_err(failed)
}

/// The event service of the client of that number.
fn of_client(number: u64) -> String {
    format!("client-{number}")
}

/// The server's thread, ended on drop.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it has to say, it has said.
            let _ = thread.join();
        }
    }
}

fn start(setup: &Setup, event_driven: bool) -> Result<Box<dyn Any>> {
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, is_ready) = mpsc::channel();
    let thread = thread::spawn({
        let (stop, setup) = (Arc::clone(&stop), setup.clone());
        // Its ports belong to the thread that made them.
        move || {
            if let Err(error) = serve(&setup, event_driven, &stop, &ready) {
                eprintln!("{error:#}");
                // Nobody hears it once all is well.
                let _ = ready.send(Err(error));
            }
        }
    });
    is_ready.recv().context("the server did not start")??;
    Ok(Box::new(Server {
        stop,
        thread: Some(thread),
    }))
}

fn serve(
    setup: &Setup,
    event_driven: bool,
    stop: &AtomicBool,
    ready: &mpsc::Sender<Result<()>>,
) -> Result<()> {
    let node = node(setup)?;
    let service = service(&node, setup)?;
    let server = service
        .server_builder()
        .initial_max_slice_len(setup.longest)
        .max_loaned_responses_per_request(1)
        .create()
        .map_err(failed)?;
    let mut wake = None;
    if event_driven {
        let events = events(&node, setup, "server")?;
        wake = Some(events.listener_builder().create().map_err(failed)?);
    }
    ready.send(Ok(()))?;
    let mut clients: HashMap<u64, Notifier<ipc::Service>> = HashMap::new();
    while !stop.load(Ordering::Relaxed) {
        if let Some(wake) = &wake {
            wake.timed_wait(|_| {}, TO_THE_END).map_err(failed)?;
        }
        while let Some(request) = server.receive().map_err(failed)? {
            let payload = request.payload();
            let response = request.loan_slice_uninit(payload.len()).map_err(failed)?;
            let response = response.write_from_slice(payload);
            response.send().map_err(failed)?;
            if event_driven {
                let number = *request.user_header();
                let notifier = match clients.entry(number) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let events = events(&node, setup, &of_client(number))?;
                        new.insert(events.notifier_builder().create().map_err(failed)?)
                    }
                };
                notifier.notify().map_err(failed)?;
            }
        }
    }
    Ok(())
}

fn connect(setup: &Setup, event_driven: bool) -> Result<Vec<IceoryxLane>> {
    let node = node(setup)?;
    let service = service(&node, setup)?;
    let rings = event_driven
        .then(|| events(&node, setup, "server"))
        .transpose()?;
    (setup.first..setup.first + setup.own)
        .map(|number| {
            // So that one that connects anew is not taken for the one before.
            let number = (u64::from(std::process::id()) << 32 | number as u64) << 8 | generation();
            let wakes = match &rings {
                Some(rings) => {
                    let own = events(&node, setup, &of_client(number))?;
                    Some(Wakes {
                        listener: own.listener_builder().create().map_err(failed)?,
                        notifier: rings.notifier_builder().create().map_err(failed)?,
                    })
                }
                None => None,
            };
            let client = service
                .client_builder()
                .initial_max_slice_len(setup.longest)
                .create()
                .map_err(failed)?;
            Ok(IceoryxLane {
                pending: VecDeque::with_capacity(setup.window),
                client,
                number,
                wakes,
            })
        })
        .collect()
}

/// Counts this process's connections.
fn generation() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) & 0xff
}

/// How an event-driven client wakes and is woken.
struct Wakes {
    listener: Listener<ipc::Service>,
    notifier: Notifier<ipc::Service>,
}

/// A request in flight.
type Pending = PendingResponse<ipc::Service, [u8], u64, [u8], ()>;

/// A client port.
pub struct IceoryxLane {
    /// Requests in flight, in their order.
    pending: VecDeque<Pending>,
    client: Client<ipc::Service, [u8], u64, [u8], ()>,
    number: u64,
    wakes: Option<Wakes>,
}

impl Lane for IceoryxLane {
    #[inline]
    fn submit(&mut self, request: &[u8]) -> Result<()> {
        let loan = self.client.loan_slice_uninit(request.len());
        let mut loan = loan.map_err(failed)?.write_from_slice(request);
        *loan.user_header_mut() = self.number;
        self.pending.push_back(loan.send().map_err(failed)?);
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> Result<()> {
        if let Some(wakes) = &self.wakes {
            wakes.notifier.notify().map_err(failed)?;
        }
        Ok(())
    }

    #[inline]
    fn collect(&mut self, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let pending = self.pending.pop_front();
        let pending = pending.context("nothing is in flight")?;
        let mut waiting_since = None;
        loop {
            if let Some(response) = pending.receive().map_err(failed)? {
                return check(response.payload());
            }
            if let Some(wakes) = &self.wakes {
                let since = *waiting_since.get_or_insert_with(Instant::now);
                ensure!(
                    since.elapsed() < PATIENCE,
                    "no response within {PATIENCE:?}"
                );
                // May also end at once, without an event, for one that was taken before.
                let events = wakes.listener.timed_wait(|_| {}, PATIENCE);
                events.map_err(failed)?;
            }
        }
    }
}
