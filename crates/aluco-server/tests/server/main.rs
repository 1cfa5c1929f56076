//! The server over a real socket, with the fake worker behind it.

mod chat;
mod ending;
mod fuzz;
mod guarding;
mod hostile;
mod loading;
mod native;
mod operating;
mod queueing;
mod recovering;
mod refusing;
mod resuming;
mod rules;
mod streaming;
mod text;
mod world;
