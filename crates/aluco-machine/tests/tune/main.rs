//! Changes of settings and their undo, as a user of the library sees them.

mod machine;

mod faults;
mod fixtures;
mod stacking;
