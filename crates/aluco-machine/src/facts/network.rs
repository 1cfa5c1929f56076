//! Network links, by which two machines can work as one.

use serde::{Deserialize, Serialize};

/// A network link. Addresses are not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The kernel's name of it.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Whether it carries traffic.
    pub up: bool,
    /// Megabits per second; `None` if it does not tell or is down.
    pub speed_mbit_s: Option<u32>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Its driver; empty if it has none.
    pub driver: String,
    /// Whether it can do RDMA.
    pub rdma: bool,
}

/// What a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// A cable.
    Ethernet,
    /// Radio.
    Wireless,
    /// USB4 or Thunderbolt between two machines.
    Thunderbolt,
    /// Made by software: bridges, tunnels, containers.
    Virtual,
}
