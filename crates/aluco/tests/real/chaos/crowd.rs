//! Clients that always have a stream in flight, each its next as soon as its last has ended.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use tokio::task::JoinHandle;

use super::reply::{Job, Reply};
use crate::served::{PATIENCE, Served, client};

/// Streams in flight.
pub(super) const STREAMS: usize = 8;

/// What a job's stream came to, by the job's number.
pub(super) type Outcome = (usize, Result<Reply, String>);

/// Clients at work.
pub(super) struct Crowd {
    clients: Vec<JoinHandle<Vec<Outcome>>>,
    stop: Arc<AtomicBool>,
    news: Arc<Mutex<Vec<(usize, SystemTime)>>>,
}

impl Crowd {
    /// Has clients work through the jobs, again and again until they are told to stop, or `rounds` times.
    pub(super) fn start(served: &Served, model: &str, jobs: &Arc<Vec<Job>>, rounds: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let news = Arc::<Mutex<Vec<_>>>::default();
        let next = Arc::new(AtomicUsize::new(0));
        // The pause while a worker is started again is no end of the connection, but anything longer is.
        let client = client().read_timeout(PATIENCE).build().unwrap();
        let clients = (0..STREAMS)
            .map(|index| {
                let (jobs, stop, news, next) =
                    (jobs.clone(), stop.clone(), news.clone(), next.clone());
                let (client, url, model) = (client.clone(), served.url.clone(), model.to_owned());
                tokio::spawn(async move {
                    let mut outcomes = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= rounds.saturating_mul(jobs.len()) {
                            break;
                        }
                        let job = number % jobs.len();
                        let told = |at| news.lock().unwrap().push((index, at));
                        let reply = jobs[job].ask(&client, &url, &model, told).await;
                        outcomes.push((job, reply));
                    }
                    outcomes
                })
            })
            .collect();
        Self {
            clients,
            stop,
            news,
        }
    }

    /// When each client heard its next token after a moment; `None` as long as one has not.
    pub(super) fn next_tokens(&self, after: SystemTime) -> Option<Vec<SystemTime>> {
        let mut first = [None; STREAMS];
        let news = self.news.lock().unwrap();
        for (client, at) in news.iter().rev().take_while(|(_, at)| *at > after) {
            first[*client] = Some(*at);
        }
        first.into_iter().collect()
    }

    /// Waits until each client's stream has ended.
    pub(super) async fn ended(self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for client in self.clients {
            outcomes.extend(client.await.unwrap());
        }
        outcomes
    }

    /// The same, and no client begins another.
    pub(super) async fn stopped(self) -> Vec<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        self.ended().await
    }
}
