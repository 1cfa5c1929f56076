//! The doctor: rules over the facts, as data, and what they find.
//!
//! A rule lives in a file of its theme below `rules/`: what it looks for in a small language, what that costs the user, what to do, how to
//! take it back, who says so and when, and who says otherwise. [`examine`] puts them all to one snapshot. A rule whose facts are not known is reported as
//! unchecked with the reason; it never passes and never fires.

mod catalogue;
mod expression;
mod filling;
mod fix;
mod kernel_messages;
mod packages;
mod report;
mod rule;
mod scope;
mod steps;
mod table;
mod template;
mod version;

pub use catalogue::Catalogue;
pub use fix::{FixAction, PackageFamily, PackageOperation};
pub use kernel_messages::kernel_events;
pub(crate) use packages::elsewhere;
pub use report::{Finding, Report, Unchecked, examine, examine_with, examine_with_log};
pub use rule::{Cost, Disagreement, Rule, Severity, Source};
pub use steps::Step;
pub use version::Version;

#[cfg(test)]
mod tests;
