//! The fleet over real processes: the fake worker does what each test's script says.

mod generating;
mod loading;
mod world;
