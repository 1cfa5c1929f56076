//! The ledger as it is shown: by `aluco mem`, by the server's status, by a refusal.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Entry, Ledger, Tight, by_place, refusal::wrapped};
use crate::{
    Bytes, Consumer, MemoryPlan, Place, Pressure,
    pool::{Budget, Limit, Pool},
};

/// The state of a ledger, for programs and people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerReport {
    /// What models may hold.
    pub budget: Budget,
    /// Bytes of RAM in the machine.
    pub machine_bytes: Bytes,
    /// True if CPU and GPU share memory.
    pub unified: bool,
    /// Bytes that models hold.
    pub held_bytes: Bytes,
    /// Bytes that could still be given.
    pub free_bytes: Bytes,
    /// Bytes held beyond the budget, because others took memory.
    pub excess_bytes: Bytes,
    /// What others do to the pool.
    #[serde(default)]
    pub pressure: Pressure,
    /// Models, other programs and the reserve.
    pub holders: Vec<HolderReport>,
    /// What limits the CPU's memory, the tightest first.
    pub host_limits: Vec<Limit>,
    /// What limits the GPU's memory.
    pub device_limits: Vec<Limit>,
}

/// Who holds how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderReport {
    /// The model's name; `None` for what is not Aluco's.
    pub model: Option<String>,
    /// What for, if it is not a model: other programs, or the reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<Consumer>,
    /// How much.
    pub bytes: Bytes,
    /// True for a model that nobody uses.
    #[serde(default)]
    pub is_idle: bool,
    /// The parts of it.
    #[serde(default)]
    pub entries: Vec<Entry>,
}

impl HolderReport {
    pub(super) fn title(&self) -> String {
        match (&self.model, self.consumer) {
            (Some(model), _) if self.is_idle => format!("{model}, idle"),
            (Some(model), _) => model.clone(),
            (None, Some(consumer)) => consumer.name().to_owned(),
            (None, None) => Consumer::OtherPrograms.name().to_owned(),
        }
    }
}

impl Ledger {
    /// The state now.
    pub fn report(&self, pressure: Pressure) -> LedgerReport {
        let pool = self.pool();
        let (host, device) = self.sums(&[]);
        LedgerReport {
            budget: pool.budget,
            machine_bytes: pool.machine,
            unified: pool.unified,
            held_bytes: host + device,
            free_bytes: pool.budget.together.less(host + device),
            excess_bytes: self.excess(),
            pressure,
            holders: holders(self, Tight::Together),
            host_limits: pool.host_limits.clone(),
            device_limits: pool.device_limits.clone(),
        }
    }
}

impl LedgerReport {
    /// The ledger that this tells of: what would fit can be tried on it.
    pub fn ledger(&self) -> Ledger {
        let other = |consumer| {
            let mut others = self.holders.iter();
            others
                .find(|holder| holder.consumer == Some(consumer))
                .map_or(Bytes::ZERO, |holder| holder.bytes)
        };
        let mut ledger = Ledger::new(Pool {
            budget: self.budget,
            reserve: other(Consumer::Reserve),
            others: other(Consumer::OtherPrograms),
            machine: self.machine_bytes,
            unified: self.unified,
            host_limits: self.host_limits.clone(),
            device_limits: self.device_limits.clone(),
        });
        for holder in &self.holders {
            let Some(model) = &holder.model else { continue };
            let items: Vec<_> = holder.entries.iter().map(|entry| entry.item).collect();
            let reservation = ledger.enter(model, &items);
            let entered = ledger.holder(reservation);
            entered.entries.clone_from(&holder.entries);
            entered.is_idle = holder.is_idle;
        }
        ledger
    }
}

/// A model that fits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// The model.
    pub model: String,
    /// What it will take.
    pub plan: MemoryPlan,
    /// Bytes that are free before it is loaded.
    pub free_bytes: Bytes,
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.plan.total();
        let first = format!(
            "{} fits: it needs {total}, and {} are free.",
            self.model, self.free_bytes
        );
        writeln!(f, "{}", wrapped(&first, "", ""))?;
        let mut lines = Lines::new("NEEDED");
        for item in &self.plan.items {
            let place = if item.place == Place::Device {
                ", GPU"
            } else {
                ""
            };
            let name = needed_for(item.consumer, self.plan.context_tokens);
            lines.add(&format!("{name}{place}"), item.bytes);
        }
        lines.add("in all", total);
        let share = self.plan.error_share * 100.0;
        write!(
            f,
            "{lines}\nPredicted from the header, within {share:.0} %.\n"
        )
    }
}

/// What bytes are needed for, in words.
pub(super) fn needed_for(consumer: Consumer, context_tokens: u64) -> String {
    match consumer {
        Consumer::KvCache => format!("KV cache of {} tokens", thousands(context_tokens)),
        consumer => consumer.name().to_owned(),
    }
}

/// Who holds a part of this memory: models first, the largest before the others.
pub(super) fn holders(ledger: &Ledger, which: Tight) -> Vec<HolderReport> {
    let mut models: Vec<HolderReport> = ledger
        .holders
        .values()
        .map(|holder| {
            let (host, device) = by_place(holder.entries.iter().map(|entry| &entry.item));
            let (bytes, place) = match which {
                Tight::Host => (host, Some(Place::Host)),
                Tight::Device => (device, Some(Place::Device)),
                Tight::Together => (host + device, None),
            };
            let mut entries: Vec<Entry> = holder.entries.clone();
            entries.retain(|entry| place.is_none_or(|place| entry.item.place == place));
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.item.bytes));
            HolderReport {
                model: Some(holder.name.clone()),
                consumer: None,
                bytes,
                is_idle: holder.is_idle,
                entries,
            }
        })
        .filter(|holder| !holder.bytes.is_zero())
        .collect();
    models.sort_by_key(|holder| std::cmp::Reverse(holder.bytes));
    if which == Tight::Device {
        return models;
    }
    let other = |consumer, bytes| HolderReport {
        model: None,
        consumer: Some(consumer),
        bytes,
        is_idle: false,
        entries: Vec::new(),
    };
    models.push(other(Consumer::OtherPrograms, ledger.pool().others));
    models.push(other(Consumer::Reserve, ledger.pool().reserve));
    models
}

impl fmt::Display for LedgerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = if self.unified {
            ", shared by CPU and GPU"
        } else {
            ""
        };
        writeln!(f, "{} of memory{shared}.\n", self.machine_bytes)?;
        let mut lines = Lines::new("HELD BY");
        for holder in &self.holders {
            lines.add(&holder.title(), holder.bytes);
            for Entry { item, origin } in &holder.entries {
                let place = if item.place == Place::Device {
                    ", GPU"
                } else {
                    ""
                };
                let origin = match origin {
                    super::Origin::Predicted => " (predicted)",
                    super::Origin::Measured => "",
                };
                let text = format!("  {}{place}{origin}", item.consumer.name());
                lines.add(&text, item.bytes);
            }
        }
        lines.add("free for models", self.free_bytes);
        write!(f, "{lines}")?;
        let mut lines = Lines::new("LIMITED BY");
        for limit in self.host_limits.iter().chain(&self.device_limits) {
            lines.add(&limit.name, limit.total);
        }
        if !lines.is_empty() {
            write!(f, "\n{lines}")?;
        }
        if !self.excess_bytes.is_zero() {
            writeln!(
                f,
                "\n{} more are held than the budget allows: other programs took memory.",
                self.excess_bytes
            )?;
        }
        match self.pressure {
            Pressure::Calm => Ok(()),
            Pressure::ShrinkCache => {
                writeln!(f, "\nMemory is short: stored prompts are being dropped.")
            }
            Pressure::EvictIdle => {
                writeln!(f, "\nMemory is very short: idle models are being unloaded.")
            }
        }
    }
}

/// Names on the left and amounts on the right.
pub(super) struct Lines {
    title: &'static str,
    rows: Vec<(String, Bytes)>,
}

/// Columns of a name and of an amount.
const NAME_COLUMNS: usize = 60;
const AMOUNT_COLUMNS: usize = 12;

impl Lines {
    pub(super) fn new(title: &'static str) -> Self {
        Self {
            title,
            rows: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, name: &str, bytes: Bytes) {
        self.rows.push((name.to_owned(), bytes));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = self.title;
        writeln!(f, "{title:NAME_COLUMNS$}{:>AMOUNT_COLUMNS$}", "BYTES")?;
        for (name, bytes) in &self.rows {
            let name = if name.chars().count() < NAME_COLUMNS {
                name.clone()
            } else {
                let kept: String = name.chars().take(NAME_COLUMNS - 2).collect();
                format!("{kept}…")
            };
            writeln!(f, "{name:NAME_COLUMNS$}{bytes:>AMOUNT_COLUMNS$}")?;
        }
        Ok(())
    }
}

/// A whole number with commas between thousands.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
