//! A talk with a model, at a terminal or in a pipe. It knows a server only through [`crate::client`].

mod answer;
mod conversation;
mod figures;
mod input;
mod progress;
mod prompt;
mod reader;
mod sampling;
mod session;

pub(crate) use answer::{Answer, End, Listener, Show};
pub(crate) use conversation::Conversation;
pub(crate) use prompt::one_prompt;
pub(crate) use reader::is_plain;
pub(crate) use session::{Session, say_figures};
