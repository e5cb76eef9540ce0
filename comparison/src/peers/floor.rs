//! The yardstick: two bare rings and no safety at all. It takes no part in any race.

use std::any::Any;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use anyhow::{Context, Result, bail};
use nearwire_cli::comparison::{Budget, Channel, Latency, Throughput, latency};
use nearwire_floor::ring::{Exchange, commit::Commit};

use crate::drive::GREETING;
use crate::message::Requests;
use crate::peer::{Ability, About, Clients, CrowdTime, Peer, Setup, Tally};

/// A ring holds this many of the longest message: the least that it takes.
const MESSAGES: usize = 8;

/// The smallest ring, in bytes: where small messages are fastest.
const SMALLEST: usize = 16 << 10;

/// Why it does not do more.
const WHY: &str = "the yardstick is one pair of rings";

pub struct Floor;

impl Peer for Floor {
    type Clients = FloorClient;
    const ABOUT: About = About {
        name: "floor",
        title: "bare floor",
        spins: true,
        packages: &["nearwire-floor"],
        configuration: "Two bare rings with commit words (`nearwire-floor`), plain copies in and out, \
            both sides spin and trust each other; a peer that dies is not noticed. What two \
            processes that copy can reach at best. Not a system to choose.",
        cannot: &[
            (Ability::Pipelined, WHY),
            (Ability::Crowd, WHY),
            (Ability::Connect, WHY),
        ],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        let listener = UnixListener::bind(setup.place.join("socket"))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One after the other: each ends before the next begins.
                if let Err(error) = answer(stream) {
                    eprintln!("the floor's server: {error:#}");
                }
            }
        });
        Ok(Box::new(()))
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        Ok(FloorClient {
            setup: setup.clone(),
        })
    }
}

fn answer(stream: UnixStream) -> Result<()> {
    let (longest, descriptors): (usize, _) = Channel::new(stream).receive_with()?;
    Exchange::<Commit>::open(descriptors)?.answer(longest);
    Ok(())
}

/// Has a pair of rings of its own for each size.
pub struct FloorClient {
    setup: Setup,
}

impl Clients for FloorClient {
    fn greet(&mut self) -> Result<()> {
        let budget = Budget {
            warm_up: Default::default(),
            run: Default::default(),
        };
        self.round_trips(GREETING, budget).map(drop)
    }

    fn round_trips(&mut self, size: usize, budget: Budget) -> Result<Latency> {
        let capacity = (size * MESSAGES).next_power_of_two().max(SMALLEST);
        let (mut exchange, descriptors) = Exchange::<Commit>::create(capacity)?;
        let stream = UnixStream::connect(self.setup.place.join("socket"))?;
        Channel::new(stream).send_with(&size, &descriptors)?;
        let mut requests = Requests::new(size, 0);
        let mut expected = requests.expected();
        let mut reply = vec![0; size];
        let measured = latency(budget, || {
            let length = exchange.round_trip(requests.next(), &mut reply);
            expected.check(reply.get(..length).context("a reply is too long")?)
        });
        exchange.stop();
        measured
    }

    fn pipelined(&mut self, _: usize, _: usize, _: Budget) -> Result<Throughput> {
        bail!(WHY)
    }

    fn crowd(&mut self, _: usize, _: &CrowdTime) -> Result<Tally> {
        bail!(WHY)
    }
}
