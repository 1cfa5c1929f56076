//! The doctor: rules over the facts, as data, and what they find.

mod fix;

pub use fix::{FixAction, PackageFamily, PackageOperation};
