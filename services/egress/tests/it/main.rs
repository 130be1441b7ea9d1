//! The proxy over real sockets: a raw CONNECT client on one side, a scripted name server and plain TCP
//! endpoints on the other.
#![allow(clippy::unwrap_used)]

mod deadlines;
mod decisions;
mod names;
mod policy;
mod protocol;
mod replies;
mod support;
mod tunnels;
