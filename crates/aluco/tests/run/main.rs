//! `aluco run`, `aluco serve` and the smaller commands as a user sees them, with a worker that only pretends.

mod at_a_server;
mod at_a_terminal;
mod cache;
mod home;
mod interruption;
mod loading;
mod machine;
mod mem;
mod mistakes;
mod one_shot;
mod operating;
mod serving;
mod store;
mod terminal;
mod top;
