//! What a model's loop decides in each step, as pure functions and plain data.
//!
//! No clock, no engine and no randomness in here: times are passed in, decisions come out, and each part is tested against simulated machines
//! and naive models. The loop asks in this order: [`fairness`] whom to admit, [`pace`] how many prompt tokens the step may take, [`planner`] what
//! each sequence gets.

pub mod fairness;
pub mod ngram;
pub mod pace;
pub mod planner;
pub mod speculation;
