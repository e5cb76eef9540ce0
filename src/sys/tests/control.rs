//! When what is sent over a control socket is there.

use crate::sys::{
    ControlListener, ControlSocket, ControlStandIn, Doorbell, Handle, PeerDoorbell, Received,
    Sleeper, Woken, endpoint_of_path,
};
use std::sync::atomic::{
    AtomicU32, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::time::{Duration, Instant};

/// Both ends of a connection, the client's first.
fn pair() -> (ControlSocket, ControlSocket) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let unique = (std::process::id(), NEXT.fetch_add(1, Relaxed));
    let directory =
        std::env::temp_dir().join(format!("nearwire-control-{}-{}", unique.0, unique.1));
    let path = endpoint_of_path(&directory.join("socket"));
    std::fs::create_dir(&directory).unwrap();
    #[cfg(unix)]
    {
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&directory, private).unwrap();
    }
    let listener = ControlListener::bind(&path, false).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let connecting = std::thread::spawn(move || ControlSocket::connect(&path, deadline).unwrap());
    let server = loop {
        match listener.accept().unwrap() {
            Some(server) => break server,
            None => std::thread::yield_now(),
        }
        assert!(Instant::now() < deadline, "nobody connects");
    };
    let client = connecting.join().unwrap();
    drop(listener);
    std::fs::remove_dir_all(directory).unwrap();
    (client, server)
}

/// What is there now, with the number of handles.
fn receive(socket: &ControlSocket) -> Option<(Vec<u8>, usize)> {
    let (mut buffer, mut handles) = ([0; 64], Vec::<Handle>::new());
    match socket.receive(&mut buffer, &mut handles).unwrap() {
        Received::Bytes(count) => Some((buffer[..count].to_vec(), handles.len())),
        Received::Nothing => Some((Vec::new(), 0)),
        Received::EndOfFile => None,
    }
}

/// As a peer that says something over the socket and then something else in shared memory.
#[test]
fn what_was_sent_before_one_settles_is_there() {
    const ROUNDS: u32 = 200;
    let (client, server) = pair();
    for (from, to) in [(&server, &client), (&client, &server)] {
        let (sent, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    assert_eq!(from.send(&round.to_le_bytes(), &[]).unwrap(), 4);
                    sent.store(round, Release);
                    while taken.load(Acquire) != round {
                        std::thread::yield_now();
                    }
                }
            });
            for round in 1..=ROUNDS {
                while sent.load(Acquire) != round {
                    std::hint::spin_loop();
                }
                to.settle();
                let bytes = round.to_le_bytes().to_vec();
                assert_eq!(receive(to), Some((bytes, 0)), "round {round}");
                to.settle();
                assert_eq!(receive(to), Some((Vec::new(), 0)), "round {round}");
                taken.store(round, Release);
            }
        });
    }
    assert_eq!(server.send(b"last", &[]).unwrap(), 4);
    server.shut_down();
    client.settle();
    assert_eq!(receive(&client), Some((b"last".to_vec(), 0)));
    assert_eq!(receive(&client), None);
}

#[test]
fn handles_that_have_arrived_outlive_the_sender() {
    let (client, server) = pair();
    let bell = Doorbell::new().unwrap();
    let handle = bell.handle().unwrap();
    assert_eq!(server.send(b"page", &[&handle]).unwrap(), 4);
    assert_eq!(server.is_handed_over(), !cfg!(windows));
    client.settle();
    let mut handles = Vec::new();
    let received = client.receive(&mut [0; 64], &mut handles).unwrap();
    assert!(matches!(received, Received::Bytes(4)), "{received:?}");
    assert!(client.confirm().unwrap());
    server.settle();
    assert_eq!(receive(&server), Some((Vec::new(), 0)));
    assert!(server.is_handed_over());
    drop(server);
    client.settle();
    assert_eq!(receive(&client), None);
    let control = ControlStandIn::new();
    let sleeper = Sleeper::new(&bell, &control).unwrap();
    sleeper.sleep(Some(Duration::ZERO)).unwrap();
    PeerDoorbell::open(handles.pop().unwrap()).unwrap().ring();
    assert_eq!(sleeper.sleep(None).unwrap(), Woken::Rung);
}

#[test]
fn the_last_word_arrives_whatever_becomes_of_handles_before_it() {
    let (client, server) = pair();
    let handle = Doorbell::new().unwrap().handle().unwrap();
    assert_eq!(server.send(b"page", &[&handle]).unwrap(), 4);
    assert_eq!(server.send(b"sorry", &[]).unwrap(), 5);
    drop(server);
    client.settle();
    let page = Some((b"page".to_vec(), 1));
    let mut received = receive(&client);
    // A server on Windows takes back what has not arrived, and what it comes with is as if it had not
    // been sent; unless the handle's number means another one of this process by now.
    assert!(cfg!(windows) || received == page, "{received:?}");
    if received == page {
        received = receive(&client);
    }
    assert_eq!(received, Some((b"sorry".to_vec(), 0)));
    assert_eq!(receive(&client), None);
}
