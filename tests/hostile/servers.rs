//! Servers that mean harm, against this library's clients.

use crate::raw::{CAPACITY, COMMITTED, FILLER, Raw, SEALS, doorbell, len_of_segment, segment};
use crate::server::NAME;
use crate::storm::{Random, WAYS, class, operations};
use crate::support::child::{Commands, open_descriptors, say};
use crate::support::{PATIENCE, Place, Process, Settings, current_thread, os, pattern, within};
use nearwire::layout::{HEAD_AT, WORD};
use nearwire::proto::frame::{Fragment, Header, Kind};
use nearwire::proto::handshake::{CallShape, Method, Offer};
use nearwire::{BlockingClient, Client, ClientBuilder, Error};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use rustix::fs::SealFlags;
use std::collections::BTreeMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

/// What a hostile server's Welcome brings.
fn welcome_with(what: &str, own: OwnedFd, ring_end: OwnedFd) -> Vec<OwnedFd> {
    let len = len_of_segment();
    let less = |seal| segment(len, SEALS.difference(seal)).0;
    match what {
        "unsealed" => vec![segment(len, SealFlags::empty()).0, ring_end],
        "may shrink" => vec![less(SealFlags::SHRINK), ring_end],
        "may be written" => vec![less(SealFlags::FUTURE_WRITE), ring_end],
        "too large" => vec![segment(2 * len, SEALS).0, ring_end],
        "no segment" => vec![ring_end.try_clone().unwrap(), ring_end],
        "eventfd" => vec![own, eventfd(0, EventfdFlags::NONBLOCK).unwrap()],
        "one" => vec![own],
        "three" => vec![own, ring_end.try_clone().unwrap(), ring_end],
        _ => vec![own, ring_end],
    }
}

fn change_offer(what: &str, offer: &mut Offer) {
    let method = |(name, shape): (&str, CallShape)| Method {
        shape,
        name: name.into(),
    };
    let methods = [
        ("echo", CallShape::Unary),
        ("items", CallShape::ServerStream),
        ("upload", CallShape::ClientStream),
    ];
    offer.methods = methods.into_iter().map(method).collect::<Vec<_>>().into();
    match what {
        "huge segment" => offer.server_segment_len = 1 << 50,
        "huge own segment" => offer.client_segment_len = 1 << 50,
        "no calls" => offer.max_in_flight = 0,
        _ => {}
    }
}

/// What it does once the client is in.
fn misbehave(raw: &mut Raw, what: &str) {
    let id = |raw: &mut Raw| {
        let (_, body) = raw.pop(PATIENCE).expect("a request");
        u64::from_le_bytes(body[..8].try_into().unwrap())
    };
    let word = |raw: &Raw, word| {
        raw.data(0).store(word, SeqCst);
        raw.ring();
    };
    match what {
        "a length beyond the ring" => word(raw, COMMITTED | 1 << 20),
        "a filler at the start" => word(raw, COMMITTED | FILLER | (CAPACITY - WORD) as u64),
        "all bits" => word(raw, u64::MAX),
        "a head too far" => {
            raw.own.word(HEAD_AT).store(1 << 40, SeqCst);
            raw.ring();
        }
        "a request" => raw.push_frame(&Header::request(0, 1), b"you"),
        "a message" => raw.push(u32::from(Kind::Message as u8), b"message"),
        "kind 77" => raw.push(77, &[0; 16]),
        "a huge total" => {
            let header = Header {
                fragment: Fragment::First { total: 1 << 60 },
                ..Header::reply(id(raw))
            };
            raw.push_frame(&header, b"x");
        }
        "items on credit" => {
            let id = id(raw);
            for _ in 0..2000 {
                if raw.is_over() || !raw.wait_for_space(64) {
                    break;
                }
                raw.push_frame(&Header::new(Kind::StreamItem, id), b"item");
            }
        }
        "answers to nothing" => {
            let wanted = id(raw);
            for n in 0..1000u64 {
                raw.wait_for_space(64);
                let other = n << 32 | wanted & 0xffff_ffff;
                if other != wanted {
                    raw.push_frame(&Header::reply(other), b"not yours");
                }
            }
            raw.push_frame(&Header::reply(wanted), b"yours");
        }
        "two answers" => {
            let id = id(raw);
            raw.push_frame(&Header::reply(id), b"yours");
            raw.push_frame(&Header::reply(id), b"again");
        }
        _ => {}
    }
}

/// Serves clients, one after the other: each as the setting `how` says, or, if that is `storm`,
/// with everything at full speed until `operations` words are written.
pub fn serve(settings: &Settings, commands: Commands) {
    let how = settings.text("how").expect("how").to_owned();
    let listener = UnixListener::bind(settings.text("socket").expect("a socket")).unwrap();
    if how == "storm" {
        let wanted = settings.number("operations").expect("operations") as u64;
        return storm(&listener, wanted, &commands);
    }
    say("ready");
    for control in listener.incoming() {
        let how = how.clone();
        let _ = std::thread::spawn(move || one(control.unwrap(), &how));
    }
}

fn one(control: UnixStream, how: &str) {
    let (fd, own) = segment(len_of_segment(), SEALS);
    let (bell, ring_end) = doorbell();
    let fds = welcome_with(how, fd, ring_end);
    let change = |offer: &mut Offer| change_offer(how, offer);
    if let Ok(mut raw) = Raw::accept_with(control, change, own, bell, fds) {
        misbehave(&mut raw, how);
        let _ = raw.verdict();
    }
}

fn storm(listener: &UnixListener, wanted: u64, commands: &Commands) {
    say("ready");
    let mut random = Random::new(7);
    let (mut written, mut connections) = (0, 0);
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    while written < wanted || connections < 4 * WAYS.len() {
        let (control, _) = listener.accept().unwrap();
        // A client that is done with its last connection may leave before this one is made.
        let Ok(mut raw) = Raw::accept(control, |offer| change_offer("", offer)) else {
            continue;
        };
        let (name, way) = WAYS[connections % WAYS.len()];
        // These two are about a server that answers.
        if matches!(name, "parked words" | "words nobody believes") {
            written += answers_while_raging(&mut raw, &mut random);
        } else {
            written += way(&mut raw, 0, &mut random);
        }
        connections += 1;
        let end = match raw.is_over() {
            true => class(&raw.verdict()).unwrap_or_else(|error| panic!("{name}: {error}")),
            false => "left open".to_owned(),
        };
        *ends.entry(format!("{name}: {end}")).or_default() += 1;
    }
    for (end, count) in &ends {
        eprintln!("{count:8} {end}");
    }
    say(format!("operations={written} connections={connections}"));
    commands.next();
}

/// Answers each request rightly and writes nonsense where a client does not look, or sleeps.
fn answers_while_raging(raw: &mut Raw, random: &mut Random) -> u64 {
    let mut written = 0;
    while written < 200_000 && !raw.is_over() {
        for at in crate::raw::WORDS {
            if at != HEAD_AT {
                raw.own.word(at).store(random.next(), Relaxed);
                written += 1;
            }
        }
        if let Some((_, body)) = raw.pop(Duration::ZERO) {
            let id = u64::from_le_bytes(body[..8].try_into().unwrap());
            raw.push_frame(&Header::reply(id), &body[8..]);
        }
        raw.ring();
    }
    written
}

fn hostile(place: &Place, how: &str, operations: &str) -> (Process, String) {
    let socket = place.socket(&format!("hostile-{}", how.replace(' ', "-")));
    let _ = std::fs::remove_file(&socket);
    let settings = [
        ("how", how),
        ("socket", socket.as_str()),
        ("operations", operations),
    ];
    let process = place.start_ready("hostile server", &settings);
    (process, socket)
}

fn blocking(socket: &str) -> Result<Vec<u8>, Error> {
    let mut client = BlockingClient::connect(socket)?;
    client.call_bytes("echo", &[1; 100])
}

async fn later(socket: &str) -> Result<Vec<u8>, Error> {
    let client = Client::connect(socket).await?;
    client.call_bytes("echo", &[1; 100]).await
}

async fn items(socket: &str) -> Result<Vec<u8>, Error> {
    let client = Client::connect(socket).await?;
    let mut items = client.stream_bytes("items", b"");
    // Takes none: they pile up.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut last = Vec::new();
    while let Some(item) = items.next().await {
        last = item?;
    }
    Ok(last)
}

/// One client of each kind: how its connecting or its call ends.
fn ends(socket: &str) -> Vec<Result<Vec<u8>, Error>> {
    let socket = socket.to_owned();
    within(PATIENCE, "clients of a hostile server", move || {
        let mut ends = vec![blocking(&socket)];
        current_thread().block_on(async {
            ends.push(later(&socket).await);
            ends.push(items(&socket).await);
        });
        ends
    })
}

#[test]
fn clients_refuse_what_no_server_may_send() {
    let place = Place::new();
    // Once, for what is made once.
    let (first, socket) = hostile(&place, "two answers", "0");
    let _ = ends(&socket);
    drop(first);
    let before = (open_descriptors(), os::shared_mappings(std::process::id()));
    for (how, name) in [
        ("unsealed", "sealed"),
        ("may shrink", "sealed"),
        ("may be written", "sealed"),
        ("too large", "agreed"),
        ("no segment", "anonymous"),
        ("eventfd", "doorbell"),
        ("one", "descriptor"),
        ("three", "descriptor"),
        ("huge segment", "segment"),
        ("huge own segment", "segment"),
        ("a length beyond the ring", "impossible commit word"),
        ("a filler at the start", "impossible commit word"),
        ("all bits", "impossible commit word"),
        ("a request", "request"),
        ("a message", "Message"),
        ("kind 77", "kind 77"),
        ("a huge total", "limit"),
    ] {
        let (server, socket) = hostile(&place, how, "0");
        for end in ends(&socket) {
            let error = end.expect_err(how).to_string();
            assert!(error.contains(name), "{how}: {error}");
        }
        drop(server);
    }
    let (server, socket) = hostile(&place, "items on credit", "0");
    let error = ends(&socket).pop().unwrap().unwrap_err();
    assert!(error.to_string().contains("credits"), "{error}");
    drop(server);
    for how in ["answers to nothing", "two answers"] {
        let (server, socket) = hostile(&place, how, "0");
        let answers = ends(&socket);
        for answer in &answers[..2] {
            assert_eq!(answer.as_ref().unwrap(), b"yours", "{how}");
        }
        drop(server);
    }
    // Other tests of this process open and close some meanwhile.
    crate::support::eventually("descriptors and mappings are as before", || {
        let after = (open_descriptors(), os::shared_mappings(std::process::id()));
        after.0 <= before.0 && after.1 <= before.1
    });
}

#[test]
fn a_pipeline_takes_no_answer_that_it_did_not_ask_for() {
    let place = Place::new();
    for how in ["answers to nothing", "two answers"] {
        let (_server, socket) = hostile(&place, how, "0");
        within(PATIENCE, how, move || {
            let mut client = BlockingClient::connect(&socket).unwrap();
            let echo = client.method("echo").unwrap();
            let mut pipeline = client.pipeline();
            pipeline.submit(echo, &[1; 100]).unwrap();
            let mut answer = || {
                let answer = pipeline.next(|_, reply| reply.map(<[u8]>::to_vec));
                answer.unwrap().map(|reply| reply.unwrap())
            };
            assert_eq!(answer().as_deref(), Some(&b"yours"[..]), "{how}");
            assert_eq!(answer(), None, "{how}");
        });
    }
}

#[test]
fn a_head_that_lies_ends_the_call_that_meets_it() {
    let place = Place::new();
    let (_server, socket) = hostile(&place, "a head too far", "0");
    let error = within(PATIENCE, "a head that lies", move || {
        let mut client = BlockingClient::connect(&socket).unwrap();
        // Larger than the ring, so that the head is looked at.
        client.call_bytes("echo", &[1; 100_000]).unwrap_err()
    });
    assert!(error.to_string().contains("impossible head"), "{error}");
}

/// Clients of a raging server, one after the other, and beside them calls to an honest server,
/// which must all be right. Told to stop, it says how many of each there were.
pub fn suffer(settings: &Settings, commands: Commands) {
    let hostile = settings.text("hostile").expect("a socket").to_owned();
    let honest = settings.text("honest").expect("a socket").to_owned();
    let stop = Arc::new(AtomicBool::new(false));
    let good = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let mut client = BlockingClient::connect(&honest).unwrap();
            let mut calls = 0u64;
            while !stop.load(Relaxed) {
                let request = pattern(calls, calls as usize % 500);
                assert!(client.call_bytes("echo", &request).unwrap() == request);
                calls += 1;
            }
            calls
        })
    };
    let suffering = |kind: usize| {
        let (stop, hostile) = (stop.clone(), hostile.clone());
        std::thread::spawn(move || {
            let (mut ended, mut answered) = (0u64, 0u64);
            while !stop.load(Relaxed) {
                let timeout = Duration::from_secs(2);
                let builder = ClientBuilder::new().timeout(timeout).ring(CAPACITY);
                let count = if kind == 0 {
                    blocking_until_error(&builder, &hostile)
                } else {
                    current_thread().block_on(async_until_error(&builder, &hostile))
                };
                answered += count;
                ended += 1;
            }
            (ended, answered)
        })
    };
    let suffering = [suffering(0), suffering(1)];
    say("ready");
    commands.next();
    stop.store(true, Relaxed);
    // The hostile server is gone by now, so that no call waits for it.
    let mut sums = (0, 0);
    for one in suffering {
        let (ended, answered) = one.join().expect("a client panicked");
        sums = (sums.0 + ended, sums.1 + answered);
    }
    let good = good.join().expect("the neighbour panicked");
    say(format!("good={good} ended={} answered={}", sums.0, sums.1));
}

fn blocking_until_error(builder: &ClientBuilder, socket: &str) -> u64 {
    let Ok(mut client) = builder.connect_blocking(socket) else {
        return 0;
    };
    let mut answered = 0;
    while client.call_bytes("echo", &[9; 200]).is_ok() {
        answered += 1;
    }
    answered
}

async fn async_until_error(builder: &ClientBuilder, socket: &str) -> u64 {
    let Ok(client) = builder.connect(socket).await else {
        return 0;
    };
    let mut answered = 0;
    let deadline = Duration::from_millis(500);
    loop {
        let calls = [0; 4].map(|_| client.call_bytes("echo", &[9; 300]).deadline(deadline));
        for call in calls {
            match call.await {
                Ok(_) | Err(Error::DeadlineExceeded | Error::Status(_)) => answered += 1,
                Err(_) => return answered,
            }
        }
        let mut items = client.stream_bytes("items", b"").deadline(deadline);
        while let Some(Ok(_)) = items.next().await {}
    }
}

#[test]
fn a_storm_of_a_servers_writes_harms_no_client_beyond_its_connection() {
    let place = Place::new();
    let honest = place.start_ready("server", &[("workers", "1")]);
    let operations = operations().to_string();
    let (mut hostile, socket) = hostile(&place, "storm", &operations);
    let victims = place.start_ready(
        "victims",
        &[("hostile", &socket), ("honest", &place.socket(NAME))],
    );
    let said = loop {
        if let Some(said) = hostile.hear_within(Duration::from_secs(3600)) {
            break said;
        }
    };
    hostile.kill();
    let report = victims.ask("stop");
    eprintln!("{said}; {report}");
    assert!(
        !report.contains("good=0 ") && !report.contains("ended=0 "),
        "{report}"
    );
    victims.join();
    drop(honest);
}
