//! Why a model was not let in: what it needs, what is free, who holds the rest, and what could be done.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::{
    HolderReport, Ledger, WayOut, by_place,
    report::{Lines, holders, needed_for},
};
use crate::{Bytes, Item, MemoryPlan, Place};

/// Columns of the text.
const COLUMNS: usize = 80;

/// Which of the three sums of a budget was too small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tight {
    /// Memory of the CPU.
    Host,
    /// Memory of the GPU.
    Device,
    /// Memory that both share.
    Together,
}

impl Tight {
    /// Whether what lies there is part of the sum.
    pub fn counts(self, place: Place) -> bool {
        match self {
            Self::Host => place == Place::Host,
            Self::Device => place == Place::Device,
            Self::Together => true,
        }
    }
}

/// A model that does not fit. Its text is a table of at most 80 columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub struct Refusal {
    /// The model.
    pub model: String,
    /// Tokens of the context it was to have.
    pub context_tokens: u64,
    /// What it needs, the largest first.
    pub needed: Vec<Item>,
    /// The memory that is too small.
    pub tight: Tight,
    /// Bytes of that memory that it needs.
    pub needed_bytes: Bytes,
    /// Bytes of that memory that are free.
    pub free_bytes: Bytes,
    /// Bytes of that memory in all, and what says so.
    pub limit: Option<(Bytes, String)>,
    /// Who holds the rest.
    pub holders: Vec<HolderReport>,
    /// What could be done, the best first; at most three. Each has been tried on the ledger. Empty if nothing helps.
    pub ways_out: Vec<WayOut>,
}

impl Refusal {
    pub(super) fn of(
        ledger: &Ledger,
        name: &str,
        plan: &MemoryPlan,
        ways_out: Vec<WayOut>,
    ) -> Self {
        let (host, device) = ledger.sums(&[]);
        let (more_host, more_device) = by_place(plan.items.iter());
        let pool = ledger.pool();
        let budget = pool.budget;
        let (tight, needed_bytes, free_bytes) = if more_device > budget.device.less(device) {
            (Tight::Device, more_device, budget.device.less(device))
        } else if more_host > budget.host.less(host) {
            (Tight::Host, more_host, budget.host.less(host))
        } else {
            let free = budget.together.less(host + device);
            (Tight::Together, more_host + more_device, free)
        };
        let limits = match tight {
            Tight::Device => &pool.device_limits,
            Tight::Host | Tight::Together => &pool.host_limits,
        };
        let limit = limits
            .first()
            .map(|limit| (limit.total, format!("{}, {}", limit.name, limit.source)));
        Self {
            model: name.to_owned(),
            context_tokens: plan.context_tokens,
            needed: plan.items.clone(),
            tight,
            needed_bytes,
            free_bytes,
            limit,
            holders: holders(ledger, tight),
            ways_out,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_what = match self.tight {
            Tight::Host => "memory",
            Tight::Device => "GPU memory",
            Tight::Together => "shared memory",
        };
        let first = format!(
            "{} does not fit: it needs {} of {of_what}, and {} are free.",
            self.model, self.needed_bytes, self.free_bytes
        );
        writeln!(f, "{}", wrapped(&first, "", ""))?;
        let mut needed = Lines::new("NEEDED");
        for item in self
            .needed
            .iter()
            .filter(|item| self.tight.counts(item.place))
        {
            let name = needed_for(item.consumer, self.context_tokens);
            needed.add(&name, item.bytes);
        }
        needed.add("in all", self.needed_bytes);
        let mut held = Lines::new("HELD BY");
        for holder in &self.holders {
            held.add(&holder.title(), holder.bytes);
        }
        held.add("free", self.free_bytes);
        write!(f, "{needed}\n{held}")?;
        if let Some((total, source)) = &self.limit {
            f.write_str(&wrapped(&format!("of {total} ({source})"), "  ", "  "))?;
        }
        if self.ways_out.is_empty() {
            return f.write_str("\nNo smaller context or quantisation makes it fit.\n");
        }
        f.write_str("\nWhat would make it fit:\n")?;
        for way in &self.ways_out {
            f.write_str(&wrapped(&way.to_string(), "  * ", "    "))?;
        }
        Ok(())
    }
}

impl Refusal {
    /// Bytes that are missing in the memory that is too small.
    pub fn missing_bytes(&self) -> Bytes {
        self.needed_bytes.less(self.free_bytes)
    }
}

/// Text in lines of at most [`COLUMNS`], broken between words; a longer word stands alone.
pub(super) fn wrapped(text: &str, first: &str, next: &str) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            let _ = writeln!(lines, "{line}");
            next.clone_into(&mut line);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    let _ = writeln!(lines, "{line}");
    lines
}
