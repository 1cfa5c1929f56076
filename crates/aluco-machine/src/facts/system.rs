//! The board with its BIOS, and the distribution.

use serde::{Deserialize, Serialize};

use super::{Because, Known, read};
use crate::root::Root;

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

const DMI: &str = "/sys/class/dmi/id";
const RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// What sellers leave in their tables when they fill in nothing.
const PLACEHOLDERS: &[&str] = &[
    "default string",
    "to be filled by o.e.m.",
    "system manufacturer",
    "system product name",
    "system version",
    "not applicable",
    "not specified",
    "none",
    "sku",
    "o.e.m.",
];

impl Board {
    pub(super) fn collect(root: &Root) -> Self {
        let word = |name: &str| {
            read::parsed(root, &format!("{DMI}/{name}"), "a name", |text| {
                let empty = PLACEHOLDERS.contains(&text.to_ascii_lowercase().as_str());
                (!empty).then(|| text.to_owned())
            })
        };
        Self {
            vendor: word("sys_vendor"),
            product: word("product_name"),
            sku: word("product_sku"),
            board_vendor: word("board_vendor"),
            board: word("board_name"),
            bios_vendor: word("bios_vendor"),
            bios_version: word("bios_version"),
            bios_date: read::parsed(
                root,
                &format!("{DMI}/bios_date"),
                "a date of month, day and year",
                date,
            ),
        }
    }
}

impl Distribution {
    pub(super) fn collect(root: &Root) -> Self {
        let (path, text) = match root.text(RELEASE[0]) {
            Err(error) if error.because == Because::Absent => match root.text(RELEASE[1]) {
                Ok(text) => (RELEASE[1], Ok(text)),
                Err(_) => (RELEASE[0], Err(error)),
            },
            text => (RELEASE[0], text),
        };
        let word = |name: &str| {
            read::told(&text, path, name, |text| {
                let value = read::unquoted(read::assignment(text, name)?);
                (!value.is_empty() && value.len() <= 256).then(|| value.to_owned())
            })
        };
        let like = word("ID_LIKE").map(|names| {
            let names = names.split_ascii_whitespace();
            names.map(str::to_owned).collect()
        });
        let marker = "/run/ostree-booted";
        let ostree = match root.node(marker) {
            Ok(_) => Known::value(true, marker),
            Err(error) => match error.because {
                Because::Absent => Known::value(false, error.to_string()),
                _ => error.into(),
            },
        };
        Self {
            id: word("ID"),
            like: read::absent_is(like, Vec::new()),
            name: word("PRETTY_NAME").or_else(|| word("NAME")),
            version: word("VERSION_ID"),
            variant: word("VARIANT_ID"),
            ostree,
        }
    }

    /// Whether it is this distribution or made from it.
    pub fn is(&self, id: &str) -> bool {
        let own = self.id.get().is_some_and(|own| own == id);
        own || self
            .like
            .get()
            .is_some_and(|like| like.iter().any(|name| name == id))
    }
}

/// `06/21/2026` as `2026-06-21`.
fn date(text: &str) -> Option<String> {
    let mut parts = text.split('/');
    let mut part = |digits: usize, range: std::ops::RangeInclusive<u32>| {
        let part = parts.next()?;
        let number = part.parse().ok()?;
        let plain = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        (plain && range.contains(&number)).then_some(number)
    };
    let (month, day, year) = (part(2, 1..=12)?, part(2, 1..=31)?, part(4, 1980..=2200)?);
    parts
        .next()
        .is_none()
        .then(|| format!("{year:04}-{month:02}-{day:02}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_come_out_in_order_and_rubbish_does_not() {
        assert_eq!(date("06/21/2026").as_deref(), Some("2026-06-21"));
        for text in ["99/99/99", "2026-06-21", "06/21/2026/1", "+6/21/2026", ""] {
            assert_eq!(date(text), None, "{text}");
        }
    }
}
