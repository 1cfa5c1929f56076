//! The `aluco` command.
fn main() {}
