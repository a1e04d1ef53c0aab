//! Where a worker listens, and under which address others find it.

use std::net::SocketAddr;

use serde::Deserialize;

/// The section `[listen]` of a worker's configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenSection {
    /// Where to listen; port 0 takes any free one.
    pub address: SocketAddr,
    /// `host:port` for others; `None`: the address itself.
    pub advertise: Option<String>,
}

impl Default for ListenSection {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
        }
    }
}

impl ListenSection {
    /// `host:port` that others are told, once the socket has its port. A port 0 in `advertise` stands for it.
    pub fn advertised(&self, bound: SocketAddr) -> String {
        match &self.advertise {
            None => bound.to_string(),
            Some(address) => match address.strip_suffix(":0") {
                Some(host) => format!("{host}:{}", bound.port()),
                None => address.clone(),
            },
        }
    }
}
