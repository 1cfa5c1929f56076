//! Network links, by which two machines can work as one.

use serde::{Deserialize, Serialize};

use super::{Known, read};
use crate::root::Root;

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

const NET: &str = "/sys/class/net";

impl Link {
    pub(super) fn collect_all(root: &Root) -> Known<Vec<Self>> {
        match root.names(NET) {
            Ok(names) => {
                let names = names.iter().filter(|name| *name != "lo");
                let links = names.take(128).map(|name| Self::read(root, name));
                Known::value(links.collect(), NET)
            }
            Err(error) => error.into(),
        }
    }

    fn read(root: &Root, name: &str) -> Self {
        let folder = format!("{NET}/{name}");
        let line = |file: &str| {
            let line = read::line(root, &format!("{folder}/{file}"));
            line.get().cloned().unwrap_or_default()
        };
        let has = |file: &str| root.has(&format!("{folder}/{file}"));
        let uevent = root.text(&format!("{folder}/device/uevent"));
        let driver = uevent.ok().and_then(|text| {
            let driver = read::assignment(&text, "DRIVER")?;
            Some(driver.chars().take(64).collect::<String>())
        });
        let driver = driver.unwrap_or_default();
        let kind = if driver == "thunderbolt-net" || name.starts_with("thunderbolt") {
            LinkKind::Thunderbolt
        } else if has("wireless") || has("phy80211") {
            LinkKind::Wireless
        } else if has("device") {
            LinkKind::Ethernet
        } else {
            LinkKind::Virtual
        };
        Self {
            name: name.to_owned(),
            kind,
            up: line("operstate") == "up" || line("carrier") == "1",
            speed_mbit_s: line("speed").parse().ok().filter(|speed| *speed > 0),
            mtu: line("mtu").parse().unwrap_or(0),
            driver,
            rdma: has("device/infiniband"),
        }
    }
}
