//! Who goes first: service is shared evenly between clients, and nobody waits for ever.
//!
//! A client is whoever the server says it is (an API key, an address). What is shared is the computing of prompts, in tokens. The client that
//! got the least so far goes first, both for the next share of a step ([`Standing`], used by the [planner](crate::planner)) and for the next
//! admission ([`Fairness::order`]).
//!
//! What a client got is counted from a clock that all share, which follows the client that got least of those that want service. So a client
//! that comes, or comes back, neither owes nor is owed anything for the time when it wanted nothing.
//!
//! Least first alone would starve a client when ever new ones come, each with nothing served. So patience is bounded: a client that got
//! nothing for [`CLIENT_WAIT_STEPS_MAX`] steps goes first in the next one, and a client whose oldest waiting request was overtaken
//! [`OVERTAKEN_MAX`] times is let in before anyone else is, even if that means to wait until a large request fits.

use std::{cmp::Reverse, collections::HashMap};

/// Most steps in which a client with prompts to compute gets nothing, before it goes first.
pub const CLIENT_WAIT_STEPS_MAX: u32 = 32;

/// Most times that the oldest waiting request of a client is overtaken by younger ones.
pub const OVERTAKEN_MAX: u32 = 16;

/// A client that was entered and did not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(usize);

impl ClientId {
    /// Its place in [`Fairness::standings`]. Small: the places of those who left are used again.
    pub fn index(self) -> usize {
        self.0
    }
}

/// Where a client stands in line; the least goes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    // In this order: whoever lost patience first goes first, and all others after it.
    overdue_steps: Reverse<u32>,
    service_tokens: u64,
}

impl Standing {
    /// Notes that the client gets so many tokens.
    pub fn serve(&mut self, tokens: u32) {
        if tokens > 0 {
            self.overdue_steps = Reverse(0);
        }
        self.service_tokens += u64::from(tokens);
    }
}

/// A request that waits for admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Whose it is.
    pub client: ClientId,
    /// Orders requests; the least came first.
    pub arrival: u64,
}

#[derive(Debug, Default)]
struct Client {
    name: String,
    entered: u32,
    service_tokens: u64,
    waited_steps: u32,
    /// How often its oldest waiting request was overtaken.
    overtaken: u32,
}

/// What every client got, as long as it has requests.
#[derive(Debug, Default)]
pub struct Fairness {
    clients: Vec<Client>,
    indices: HashMap<String, usize>,
    free: Vec<usize>,
    /// The service of the client that got least of those that wanted some. Never goes back.
    clock_tokens: u64,
}

impl Fairness {
    /// Notes that a client has one request more. Each call is undone by one of [`leave`](Self::leave).
    pub fn enter(&mut self, name: &str) -> ClientId {
        let index = self.indices.get(name).copied().unwrap_or_else(|| {
            let client = Client {
                name: name.to_owned(),
                ..Client::default()
            };
            let index = if let Some(index) = self.free.pop() {
                self.clients[index] = client;
                index
            } else {
                self.clients.push(client);
                self.clients.len() - 1
            };
            self.indices.insert(name.to_owned(), index);
            index
        });
        self.clients[index].entered += 1;
        ClientId(index)
    }

    /// Notes that a client has one request less; with the last one it is forgotten.
    ///
    /// # Panics
    /// If it was not entered.
    pub fn leave(&mut self, client: ClientId) {
        let left = &mut self.clients[client.0];
        left.entered = left
            .entered
            .checked_sub(1)
            .expect("a client leaves as often as it was entered");
        if left.entered == 0 {
            self.indices.remove(&left.name);
            self.free.push(client.0);
        }
    }

    /// Clients that have requests.
    pub fn clients(&self) -> usize {
        self.indices.len()
    }

    /// Notes a step: what each prefill got of it, with 0 for one that had to wait. A client may occur more than once.
    pub fn account(&mut self, shares: impl IntoIterator<Item = (ClientId, u32)>) {
        let mut got: HashMap<ClientId, u32> = HashMap::new();
        for (client, tokens) in shares {
            *got.entry(client).or_default() += tokens;
        }
        let Some(least) = got.keys().map(|client| self.service(*client)).min() else {
            return;
        };
        for (client, tokens) in got {
            let service = self.service(client);
            let client = &mut self.clients[client.0];
            client.service_tokens = service + u64::from(tokens);
            client.waited_steps = if tokens > 0 {
                0
            } else {
                client.waited_steps + 1
            };
        }
        self.clock_tokens = least;
    }

    /// The standing of every client, by [`ClientId::index`].
    pub fn standings(&self) -> Vec<Standing> {
        (0..self.clients.len())
            .map(|index| Standing {
                overdue_steps: Reverse(
                    (self.clients[index].waited_steps + 1).saturating_sub(CLIENT_WAIT_STEPS_MAX),
                ),
                service_tokens: self.service(ClientId(index)),
            })
            .collect()
    }

    /// The order in which waiting requests are to be tried for admission, as indices into `waiting`. The first one that fits is to be let
    /// in ([`admitted`](Self::admitted)); then the order is to be asked for anew.
    ///
    /// First comes the client with the least service and `held_cells` together, and its oldest request first. Once a client's oldest
    /// request was overtaken too often, it is the only one in the answer: nothing may pass it.
    pub fn order(&self, waiting: &[Waiting], held_cells: impl Fn(ClientId) -> u32) -> Vec<usize> {
        let overdue = (0..waiting.len())
            .filter(|&index| self.clients[waiting[index].client.0].overtaken >= OVERTAKEN_MAX)
            .min_by_key(|&index| waiting[index].arrival);
        if let Some(index) = overdue {
            return vec![index];
        }
        let mut order: Vec<usize> = (0..waiting.len()).collect();
        order.sort_by_cached_key(|&index| {
            let Waiting { client, arrival } = waiting[index];
            let load = self.service(client) + u64::from(held_cells(client));
            (load, arrival)
        });
        order
    }

    /// Notes that the request at `index` of `waiting` is let in: the oldest requests of the clients there that came before it were
    /// overtaken.
    pub fn admitted(&mut self, waiting: &[Waiting], index: usize) {
        let mut oldest: HashMap<ClientId, usize> = HashMap::new();
        for (index, request) in waiting.iter().enumerate() {
            let first = oldest.entry(request.client).or_insert(index);
            if request.arrival < waiting[*first].arrival {
                *first = index;
            }
        }
        for (client, first) in oldest {
            let client = &mut self.clients[client.0];
            if first == index {
                client.overtaken = 0;
            } else if waiting[first].arrival < waiting[index].arrival {
                client.overtaken += 1;
            }
        }
    }

    fn service(&self, client: ClientId) -> u64 {
        self.clients[client.0].service_tokens.max(self.clock_tokens)
    }
}

#[cfg(test)]
mod tests;
