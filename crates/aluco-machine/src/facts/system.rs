//! The board with its BIOS, and the distribution.

use serde::{Deserialize, Serialize};

use super::Known;

/// The board and its BIOS, from `/sys/class/dmi/id`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Board {
    /// Who sells the machine.
    pub vendor: Known<String>,
    /// The machine.
    pub product: Known<String>,
    /// The seller's number of it.
    pub sku: Known<String>,
    /// Who made the board.
    pub board_vendor: Known<String>,
    /// The board.
    pub board: Known<String>,
    /// Who wrote the BIOS.
    pub bios_vendor: Known<String>,
    /// Its version.
    pub bios_version: Known<String>,
    /// Its date as year, month and day: `2026-01-21`.
    pub bios_date: Known<String>,
}

/// The distribution, from `/etc/os-release`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Distribution {
    /// Its short name, such as `fedora`.
    pub id: Known<String>,
    /// Short names of those that it is made from, nearest first; empty if it names none.
    pub like: Known<Vec<String>>,
    /// Its name for people.
    pub name: Known<String>,
    /// Its version, such as `43`; rolling ones have none.
    pub version: Known<String>,
    /// Its variant, such as `silverblue`.
    pub variant: Known<String>,
    /// Whether the system is an image that rpm-ostree or bootc puts in place.
    pub ostree: Known<bool>,
}
