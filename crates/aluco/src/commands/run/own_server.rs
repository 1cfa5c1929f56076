//! The very server that `aluco serve` runs, in this process, for nobody but this process.

use std::{collections::BTreeMap, fs::File, io::Read, time::Duration};

use aluco_fleet::{Fleet, FleetConfig, KeepAlive};
use aluco_server::{Isolation, ServerConfig};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::{
    client::Client,
    config::Settings,
    engine,
    failure::{Failure, Outcome},
};

/// How long what runs may go on once nobody listens any more.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// A server that lives as long as this command.
pub(super) struct OwnServer {
    client: Client,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl OwnServer {
    /// Listens on loopback at a free port, behind a key that nobody else knows. The model is looked up first, not yet loaded.
    pub(super) async fn start(settings: &Settings, model: &str) -> Outcome<Self> {
        let fleet_config = FleetConfig {
            models_max: 1,
            // The model is in use as long as this command runs, however long the user thinks.
            keep_alive: KeepAlive::Forever,
            models: BTreeMap::new(),
            ..engine::fleet(settings)
        };
        fleet_config.store.find(model)?;
        let cannot = |error| Failure::new(format!("cannot start a server of its own: {error}"));
        let key = random_key().map_err(cannot)?;
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let fleet = Fleet::new(fleet_config);
        let config = ServerConfig {
            api_keys: vec![key.clone()],
            // The key is another one each time; what was computed under the last one would never be found again.
            isolation: Isolation::Shared,
            shutdown_limit: SHUTDOWN_LIMIT,
            ..engine::server(settings)?
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(aluco_server::serve(listener, fleet, config, async {
            // An error means that the sender is gone: time to stop as well.
            let _ = stopped.await;
        }));
        Ok(Self {
            client: Client::new(&format!("http://{address}"), Some(&key))?,
            stop,
            task,
        })
    }

    /// Who can ask it.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Stops it, and the workers with it.
    pub(super) async fn close(self) {
        let _ = self.stop.send(());
        // The answer is out; what goes wrong now is nothing that a user could act on.
        let _ = self.task.await;
    }
}

/// 128 random bits in hex.
fn random_key() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}
