//! What either side needs for shared memory, and what becomes of it if it cannot be had.

use super::{Grants, Parts, Reserved};
use crate::error::{Error, Result, SegmentRefused, Violation};
use crate::layout;
use crate::link::{Carrier, Link, Rx, Terms, Tx};
use crate::proto::handshake::{
    FEATURE_SOCKET_TRANSPORT, HandshakeError, MessageReader, RejectCode, ServerHandshake, Welcome,
};
use crate::segment::{LocalSegment, PeerData, PeerWords, open_peer};
use crate::settings::Memory;
#[cfg(any(fuzzing, all(test, shuttle)))]
use crate::sys::ControlSocket;
use crate::sys::{self, Doorbell, Handle, PeerDoorbell, SegmentHandle};
#[cfg(feature = "mpmc_transport")]
use crate::{
    link::requests::{self, Feed, Inlet, RequestQueue, Requests},
    proto::handshake::FEATURE_MPMC_TRANSPORT,
    segment::{LocalData, private},
};
#[cfg(feature = "mpmc_transport")]
use std::sync::Arc;

/// Both sides' segments, and the way to wake the peer.
#[derive(Debug)]
pub(super) struct Both {
    segment: LocalSegment,
    peer_bell: PeerDoorbell,
    words: PeerWords,
    data: PeerData,
    reserved: Option<Reserved>,
    #[cfg(feature = "mpmc_transport")]
    requests: Option<Requests>,
    /// What takes the place of this side's ring in its segment.
    #[cfg(feature = "mpmc_transport")]
    private: Option<LocalData>,
}

impl Both {
    /// A server's, whose requests come through the queue.
    #[cfg(feature = "mpmc_transport")]
    pub(super) fn with_queue(mut self, queue: &Arc<RequestQueue>, terms: &Terms) -> Self {
        let (_, private, _, source) = private(terms.ring_in);
        let inlet = Inlet::new(private, self.segment.words().clone(), terms.ring_in);
        let registration = queue.register(terms.connection_id, inlet);
        self.requests = Some(Requests::Taken(registration));
        self.data = source;
        self
    }

    /// A link whose frames go through them.
    pub(super) fn into_link(self, mut parts: Parts, reader: MessageReader) -> Link {
        parts.reserved = self.reserved;
        parts.terms.features &= !FEATURE_SOCKET_TRANSPORT;
        #[cfg(feature = "mpmc_transport")]
        {
            parts.requests = self.requests;
        }
        let terms = &parts.terms;
        let (out, into, fences) = (terms.ring_out, terms.ring_in, terms.fences);
        let huge_pages = self.segment.huge_pages();
        let (words, data) = self.segment.into_parts();
        #[cfg(feature = "mpmc_transport")]
        let data = self.private.unwrap_or(data);
        let carrier = Carrier::Memory {
            peer_bell: self.peer_bell,
            reader: reader.into(),
        };
        let shared = parts.into_shared(carrier, huge_pages);
        #[cfg(feature = "mpmc_transport")]
        if let Some(Requests::Taken(registration)) = &shared.requests {
            registration.inlet().set_shared(&shared);
        }
        Link {
            tx: Tx::new(
                data,
                words.clone(),
                self.words.clone(),
                out,
                fences,
                shared.clone(),
            ),
            rx: Rx::new(self.data, words, self.words, into, fences, shared.clone()),
            shared,
        }
    }
}

#[cfg(any(fuzzing, all(test, shuttle)))]
impl Link {
    /// A link to a peer with which there was no handshake.
    pub(crate) fn unconfirmed(
        socket: ControlSocket,
        bell: Doorbell,
        peer_bell: PeerDoorbell,
        segment: LocalSegment,
        (words, data): (PeerWords, PeerData),
        terms: Terms,
    ) -> Link {
        let parts = Parts {
            socket,
            bell,
            peer: ControlSocket::own_identity(),
            terms,
            name: None,
            reserved: None,
            #[cfg(feature = "mpmc_transport")]
            requests: None,
        };
        let both = Both {
            segment,
            peer_bell,
            words,
            data,
            reserved: None,
            #[cfg(feature = "mpmc_transport")]
            requests: None,
            #[cfg(feature = "mpmc_transport")]
            private: None,
        };
        both.into_link(parts, MessageReader::new())
    }
}

/// A server's segment.
#[derive(Debug)]
pub(super) struct Offered {
    segment: LocalSegment,
    reserved: Reserved,
    /// Of the server's and of the client's, in bytes.
    pub(super) segment_lens: (u64, u64),
}

/// What was made; or `None` if the system refused it and the socket may take its place. A refusal
/// is logged. What the peer did wrong stays an error.
pub(super) fn or_socket<T>(made: Result<T>, features: u64) -> Result<Option<T>> {
    let error = match made {
        Ok(made) => return Ok(Some(made)),
        Err(error) => error,
    };
    let refused_here = match &error {
        Error::Io { .. } | Error::Segment(SegmentRefused::Unusable(_)) => true,
        Error::Handshake(HandshakeError::Refused(reject)) => reject.code == RejectCode::Limits,
        _ => false,
    };
    if !refused_here || features & FEATURE_SOCKET_TRANSPORT == 0 {
        return Err(error);
    }
    tracing::warn!(reason = %error, "no shared memory for a connection: the socket takes its place");
    Ok(None)
}

/// A client's: maps the server's segment, and its request queue if that was agreed on, and creates a
/// segment. With what the server gets of it.
pub(super) fn of_client(
    #[cfg_attr(not(feature = "mpmc_transport"), allow(unused_mut))] mut handles: Vec<Handle>,
    bell: &Doorbell,
    welcome: &Welcome,
    memory: &Memory,
) -> Result<(Both, [Handle; 2])> {
    let (to_server, to_client) = (
        welcome.ring_to_server as usize,
        welcome.ring_to_client as usize,
    );
    #[cfg(feature = "mpmc_transport")]
    let queue = match welcome.features & FEATURE_MPMC_TRANSPORT {
        0 => None,
        _ => handles.pop().map(requests::open).transpose()?,
    };
    let (server_segment, server_bell) = two(handles)?;
    let (words, data) = open_peer(SegmentHandle::from(server_segment), to_client)?;
    let (segment, handle) = LocalSegment::create(to_server, memory)
        .map_err(Error::io("create a segment of shared memory"))?;
    let bell_handle = bell.handle().map_err(Error::io("share a doorbell"))?;
    let peer_bell = peer_bell(server_bell)?;
    #[cfg(feature = "mpmc_transport")]
    let (requests, private) = queue
        .map(|queue| {
            let (_, private, _, source) = private(to_server);
            let id = welcome.connection_id;
            let feed = Feed::new(queue, source, to_server, id, words.clone());
            (Requests::Fed(feed.into()), private)
        })
        .unzip();
    let both = Both {
        segment,
        peer_bell,
        words,
        data,
        reserved: None,
        #[cfg(feature = "mpmc_transport")]
        requests,
        #[cfg(feature = "mpmc_transport")]
        private,
    };
    Ok((both, [handle.into(), bell_handle]))
}

/// A server's: books the memory and creates its segment. With what the client gets of it.
pub(super) fn of_server(
    handshake: &ServerHandshake,
    grants: &Grants,
    bell: &Doorbell,
    out: usize,
    into: usize,
) -> Result<(Offered, [Handle; 2])> {
    let page = sys::page_size();
    let (own, peers) = (
        layout::segment_len(out, page) as u64,
        layout::segment_len(into, page) as u64,
    );
    let both = own + peers;
    let reserved = grants.mapped.reserve(both).map_err(|used| {
        let text = format!(
            "the server's connections have {used} bytes of memory mapped; its limit of {} \
             leaves no room for the {both} of another one: wish for smaller rings, or raise \
             max_mapped at the server",
            grants.mapped.limit
        );
        let reject = handshake.reject_with(RejectCode::Limits, text);
        Error::Handshake(HandshakeError::Refused(reject))
    })?;
    let (segment, handle) = LocalSegment::create(out, &grants.memory)
        .map_err(Error::io("create a segment of shared memory"))?;
    let bell_handle = bell.handle().map_err(Error::io("share a doorbell"))?;
    let offered = Offered {
        segment,
        reserved,
        segment_lens: (own, peers),
    };
    Ok((offered, [handle.into(), bell_handle]))
}

/// A server's: maps the segment that the client sent.
pub(super) fn open(offered: Offered, handles: Vec<Handle>, terms: &Terms) -> Result<Both> {
    let (segment, bell) = two(handles)?;
    let (words, data) = open_peer(SegmentHandle::from(segment), terms.ring_in)?;
    let peer_bell = peer_bell(bell)?;
    Ok(Both {
        segment: offered.segment,
        peer_bell,
        words,
        data,
        reserved: Some(offered.reserved),
        #[cfg(feature = "mpmc_transport")]
        requests: None,
        #[cfg(feature = "mpmc_transport")]
        private: None,
    })
}

fn two(handles: Vec<Handle>) -> Result<(Handle, Handle)> {
    let [segment, bell]: [Handle; 2] = handles
        .try_into()
        .map_err(|_| Error::Protocol(Violation::Control("not two handles".into())))?;
    Ok((segment, bell))
}

/// # Errors
/// The peer's fault, whatever the system says.
fn peer_bell(handle: Handle) -> Result<PeerDoorbell> {
    PeerDoorbell::open(handle).map_err(|error| {
        let text = format!("the peer's doorbell cannot be used: {error}");
        Error::Protocol(Violation::Control(text))
    })
}
