//! The fleet over real processes: the fake worker does what each test's script says.

mod bench;
mod blaming;
mod budget;
mod choosing;
mod dying;
mod ending;
mod generating;
mod loading;
mod pressure;
mod reconfiguring;
mod recovering;
mod staying;
mod story;
mod world;
