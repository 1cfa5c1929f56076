//! Who holds the memory, as parts of a bar. Pure.

use aluco_plan::{Bytes, Consumer, LedgerReport};

use crate::watching::MachineReport;

/// A part of the bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Weights,
    Kv,
    Compute,
    Stored,
    Others,
    Reserve,
    Free,
    /// Used, and it is not known by whom.
    Used,
}

impl Part {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Kv => "KV",
            Self::Compute => "compute",
            Self::Stored => "stored prompts",
            Self::Others => "others",
            Self::Reserve => "reserve",
            Self::Free => "free",
            Self::Used => "used",
        }
    }

    /// What stands for it where colours and blocks are not to be had.
    pub(super) fn letter(self) -> char {
        match self {
            Self::Weights => 'W',
            Self::Kv => 'K',
            Self::Compute => 'C',
            Self::Stored => 'S',
            Self::Others => 'o',
            Self::Reserve => 'r',
            Self::Free => '.',
            Self::Used => 'U',
        }
    }
}

/// The memory and its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pool {
    /// One line about it.
    pub(super) title: String,
    /// In the order of the bar; those of zero bytes are left out.
    pub(super) parts: Vec<(Part, u64)>,
}

impl Pool {
    /// From the ledger; without one, from what the machine tells. `None` if neither is known.
    pub(super) fn of(
        ledger: Option<&LedgerReport>,
        machine: Option<&MachineReport>,
    ) -> Option<Self> {
        ledger
            .map(Self::of_ledger)
            .or_else(|| machine.and_then(Self::of_machine))
    }

    fn of_ledger(ledger: &LedgerReport) -> Self {
        let of = |which: fn(Consumer) -> bool| -> u64 {
            let entries = ledger.holders.iter().flat_map(|holder| &holder.entries);
            entries
                .filter(|entry| which(entry.item.consumer))
                .map(|entry| entry.item.bytes.0)
                .sum()
        };
        let other = |consumer| -> u64 {
            let holders = ledger.holders.iter();
            holders
                .filter(|holder| holder.model.is_none() && holder.consumer == Some(consumer))
                .map(|holder| holder.bytes.0)
                .sum()
        };
        let parts = [
            (
                Part::Weights,
                of(|it| {
                    matches!(
                        it,
                        Consumer::Weights | Consumer::Projector | Consumer::Draft
                    )
                }),
            ),
            (
                Part::Kv,
                of(|it| matches!(it, Consumer::KvCache | Consumer::RecurrentState)),
            ),
            (
                Part::Compute,
                of(|it| matches!(it, Consumer::Compute | Consumer::Worker)),
            ),
            (Part::Stored, of(|it| it == Consumer::PrefixStore)),
            (Part::Others, other(Consumer::OtherPrograms)),
            (Part::Reserve, other(Consumer::Reserve)),
            (Part::Free, ledger.free_bytes.0),
        ];
        let mut title = format!(
            "models hold {} of {}, {} free",
            ledger.held_bytes, ledger.budget.together, ledger.free_bytes
        );
        if !ledger.excess_bytes.is_zero() {
            title = format!("{title}; {} too much is held", ledger.excess_bytes);
        }
        Self::new(title, parts)
    }

    fn of_machine(report: &MachineReport) -> Option<Self> {
        let total = report.sample.memory_total_bytes.copied()?;
        let available = report.sample.memory_available_bytes.copied()?.min(total);
        let title = format!(
            "{} of {} available; the server keeps no ledger",
            Bytes(available),
            Bytes(total)
        );
        let parts = [(Part::Used, total - available), (Part::Free, available)];
        Some(Self::new(title, parts))
    }

    fn new<const N: usize>(title: String, parts: [(Part, u64); N]) -> Self {
        let mut parts = parts.to_vec();
        parts.retain(|(_, bytes)| *bytes > 0);
        Self { title, parts }
    }

    /// How many cells of a bar of that width each part takes. They sum up to the width; what is there takes a cell as long as there
    /// are enough.
    pub(super) fn cells(&self, width: u16) -> Vec<(Part, u16)> {
        let total: u128 = self.parts.iter().map(|(_, bytes)| u128::from(*bytes)).sum();
        if total == 0 || width == 0 {
            return Vec::new();
        }
        // Each border falls on the nearest cell; so the parts cannot sum up to anything else.
        let mut reached: u128 = 0;
        let mut from = 0;
        let mut cells: Vec<(Part, u16)> = Vec::with_capacity(self.parts.len());
        for (part, bytes) in &self.parts {
            reached += u128::from(*bytes);
            let border = (reached * u128::from(width) + total / 2) / total;
            let to = u16::try_from(border).unwrap_or(width);
            cells.push((*part, to - from));
            from = to;
        }
        while let Some(empty) = cells.iter().position(|(_, count)| *count == 0) {
            let largest = cells.iter_mut().max_by_key(|(_, count)| *count);
            match largest {
                Some((_, count)) if *count > 1 => *count -= 1,
                _ => break,
            }
            cells[empty].1 = 1;
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(bytes: &[u64]) -> Pool {
        let parts = [
            Part::Weights,
            Part::Kv,
            Part::Compute,
            Part::Others,
            Part::Free,
        ];
        Pool {
            title: String::new(),
            parts: parts.into_iter().zip(bytes.iter().copied()).collect(),
        }
    }

    #[test]
    fn small_parts_are_seen() {
        let cells = pool(&[60, 1, 1, 18, 20]).cells(20);
        let counts: Vec<u16> = cells.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [10, 1, 1, 4, 4]);
    }

    proptest! {
        #[test]
        fn the_parts_of_a_bar_are_as_long_as_the_bar(
            bytes in proptest::collection::vec(1..u64::MAX, 1..=5),
            width in 1..300_u16,
        ) {
            let cells = pool(&bytes).cells(width);
            prop_assert_eq!(cells.iter().map(|(_, count)| count).sum::<u16>(), width);
            let seen = cells.iter().filter(|(_, count)| *count > 0).count();
            prop_assert_eq!(seen, bytes.len().min(usize::from(width)));
        }
    }
}
