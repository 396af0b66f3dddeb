//! Owns the protocol numbers of SP and who may talk to whom.

use std::fmt;

/// The role that a socket announces when it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// One peer, both directions (version 0).
    Pair0,
    /// One peer, both directions, with a hop count (version 1).
    Pair1,
    /// Sends to every subscriber.
    Pub,
    /// Receives what it subscribed to.
    Sub,
    /// Asks, and waits for the reply.
    Req,
    /// Answers requests.
    Rep,
    /// Deals messages out to its peers.
    Push,
    /// Collects messages from its peers.
    Pull,
    /// Asks everybody, within a time limit.
    Surveyor,
    /// Answers surveys.
    Respondent,
    /// Sends to every neighbour.
    Bus,
}

impl Protocol {
    pub(crate) const ALL: [Self; 11] = [
        Self::Pair0,
        Self::Pair1,
        Self::Pub,
        Self::Sub,
        Self::Req,
        Self::Rep,
        Self::Push,
        Self::Pull,
        Self::Surveyor,
        Self::Respondent,
        Self::Bus,
    ];

    /// The number that goes over the wire.
    pub const fn number(self) -> u16 {
        match self {
            Self::Pair0 => 0x10,
            Self::Pair1 => 0x11,
            Self::Pub => 0x20,
            Self::Sub => 0x21,
            Self::Req => 0x30,
            Self::Rep => 0x31,
            Self::Push => 0x50,
            Self::Pull => 0x51,
            Self::Surveyor => 0x62,
            Self::Respondent => 0x63,
            Self::Bus => 0x70,
        }
    }

    /// The protocol with this number, if there is one.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.number() == number)
    }

    /// The only protocol that this one talks to.
    pub const fn peer(self) -> Self {
        match self {
            Self::Pair0 => Self::Pair0,
            Self::Pair1 => Self::Pair1,
            Self::Pub => Self::Sub,
            Self::Sub => Self::Pub,
            Self::Req => Self::Rep,
            Self::Rep => Self::Req,
            Self::Push => Self::Pull,
            Self::Pull => Self::Push,
            Self::Surveyor => Self::Respondent,
            Self::Respondent => Self::Surveyor,
            Self::Bus => Self::Bus,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pair0 => "pair",
            Self::Pair1 => "pair1",
            Self::Pub => "pub",
            Self::Sub => "sub",
            Self::Req => "req",
            Self::Rep => "rep",
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Surveyor => "surveyor",
            Self::Respondent => "respondent",
            Self::Bus => "bus",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_peers_are_mutual() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::from_number(protocol.number()), Some(protocol));
            assert_eq!(protocol.peer().peer(), protocol);
        }
        assert_eq!(Protocol::from_number(0x12), None);
    }
}
