//! What a model's loop decides in each step, as pure functions and plain data.
//!
//! No clock, no engine and no randomness that shows in here: times are passed in, decisions come out, and each part is tested against
//! simulated machines and naive models.
//!
//! Of a step, the loop asks in this order: [`fairness`] whom to admit, [`cells`] whether it fits, [`ngram`] and [`speculation`] what to draft,
//! [`pace`] how many prompt tokens to take beside, and [`planner`] what each sequence gets. Afterwards it tells them what came of it.

pub mod cells;
pub mod fairness;
pub mod ngram;
pub mod pace;
pub mod planner;
pub mod speculation;
