//! Listening sockets that whoever started this process has opened for it, and keeps open when it ends: then
//! no connection is refused between one process and the next. This is systemd's socket activation
//! (`sd_listen_fds(3)`): `LISTEN_PID` and `LISTEN_FDS` say that file descriptors from 3 on are for us.
//!
//! Sockets are told apart by the address they listen on, which must be the configured one. Names
//! (`LISTEN_FDNAMES`) are not looked at.

use std::net::{SocketAddr, TcpListener};

use crate::config::Activation;

/// The first file descriptor that is passed (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;
/// More sockets than any process here listens on; what claims more is a mistake.
const COUNT_MAX: i32 = 64;

/// Sockets that nobody has asked for yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(SocketAddr, TcpListener)>);

/// A socket to listen on.
#[derive(Debug)]
pub struct Listening {
    /// The socket; it does not block.
    pub listener: TcpListener,
    /// Whose it is.
    pub origin: Origin,
}

/// Whose a listening socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This process': when it closes it, connections are refused.
    Own,
    /// Its starter's: connections wait in it for the next process.
    Inherited,
}

/// What was passed is not what is needed.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// The variables are not those of the protocol.
    #[error("LISTEN_FDS must be a number of at most {COUNT_MAX}")]
    Count,
    /// It is no TCP socket.
    #[error("file descriptor {0}, passed for listening, is not a TCP socket")]
    NoTcpSocket(i32, #[source] std::io::Error),
    /// It is for an address nobody listens on.
    #[error("a socket for {0} was passed, where nothing is configured to listen")]
    Unwanted(SocketAddr),
}

impl Inherited {
    /// What was passed to this process. To be called once, before anything opens file
    /// descriptors: it takes those over that were passed.
    ///
    /// # Errors
    ///
    /// See [`InheritedError`].
    pub fn take(activation: &Activation) -> Result<Self, InheritedError> {
        let mut sockets = Vec::new();
        for descriptor in descriptors(activation, std::process::id())? {
            let listener = listener(descriptor);
            let address = listener
                .local_addr()
                .map_err(|error| InheritedError::NoTcpSocket(descriptor, error))?;
            sockets.push((address, listener));
        }
        Ok(Self(sockets))
    }

    /// The socket for `address`: the inherited one if there is one, or else a new one.
    ///
    /// # Errors
    ///
    /// The address is taken, or not this machine's.
    pub fn listen(&mut self, address: SocketAddr) -> std::io::Result<Listening> {
        let passed = self.0.iter().position(|(of, _)| *of == address);
        let (listener, origin) = match passed {
            Some(index) => (self.0.swap_remove(index).1, Origin::Inherited),
            None => (TcpListener::bind(address)?, Origin::Own),
        };
        listener.set_nonblocking(true)?;
        Ok(Listening { listener, origin })
    }

    /// Fails if a socket is left that nobody has asked for: its connections would wait for ever.
    ///
    /// # Errors
    ///
    /// [`InheritedError::Unwanted`].
    pub fn finish(self) -> Result<(), InheritedError> {
        match self.0.first() {
            Some((address, _)) => Err(InheritedError::Unwanted(*address)),
            None => Ok(()),
        }
    }
}

/// The variables are for one process only: its children inherit them without being meant.
fn descriptors(activation: &Activation, pid: u32) -> Result<std::ops::Range<i32>, InheritedError> {
    let is_for_us = activation.pid.as_deref().and_then(|text| text.parse().ok()) == Some(pid);
    let Some(count) = activation.count.as_deref().filter(|_| is_for_us) else {
        return Ok(FIRST..FIRST);
    };
    match count.parse() {
        Ok(count @ 0..=COUNT_MAX) => Ok(FIRST..FIRST + count),
        _ => Err(InheritedError::Count),
    }
}

#[expect(unsafe_code, reason = "a file descriptor that was passed is a number")]
fn listener(descriptor: i32) -> TcpListener {
    use std::os::fd::FromRawFd as _;
    // SAFETY: by the protocol the descriptor is open and this process' own, and `take` is called once, first in
    // `main`, before the runtime or anything else opens descriptors. One that is not open fails with EBADF when it is asked for its
    // address, and is closed in vain.
    unsafe { TcpListener::from_raw_fd(descriptor) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activation(pid: &str, count: &str) -> Activation {
        Activation {
            pid: Some(pid.to_owned()),
            count: Some(count.to_owned()),
        }
    }

    #[test]
    fn only_what_was_passed_to_this_very_process_is_taken() {
        let passed = descriptors(&activation("41", "2"), 41);
        assert_eq!(passed.expect("two"), 3..5);
        for (pid, count) in [("42", "2"), ("", "2"), ("-41", "2"), ("41", "0")] {
            let none = descriptors(&activation(pid, count), 41).expect("none");
            assert!(none.is_empty(), "{pid} {count}");
        }
        assert!(
            descriptors(&Activation::default(), 41)
                .expect("none")
                .is_empty()
        );
        for wrong in ["", "x", "-1", "65"] {
            assert!(
                descriptors(&activation("41", wrong), 41).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_socket_is_found_by_its_address_and_must_be_wanted() {
        let passed = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = passed.local_addr().expect("an address");
        let mut inherited = Inherited(vec![(address, passed)]);
        let other = inherited.listen(([127, 0, 0, 1], 0).into()).expect("bound");
        assert_eq!(other.origin, Origin::Own);
        let found = inherited.listen(address).expect("passed");
        assert_eq!(found.origin, Origin::Inherited);
        assert_eq!(found.listener.local_addr().expect("an address"), address);
        inherited.finish().expect("nothing is left");
        let unwanted = Inherited(vec![(address, found.listener)]);
        assert!(
            matches!(unwanted.finish(), Err(InheritedError::Unwanted(left)) if left == address)
        );
    }
}
