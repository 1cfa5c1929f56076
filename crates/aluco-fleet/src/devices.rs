//! How fast the devices are, asked of one worker per backend.

use std::{collections::BTreeSet, time::Duration};

use aluco_proto::{Backend, DeviceSpeed};
use tokio::time::timeout;

use crate::{FleetConfig, locate};

/// How long a worker may measure. A device takes about two seconds once its driver is there.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(60);

/// What the best worker of each backend measures of its devices, or why it could not; one after the other, since they share the memory.
pub(crate) async fn speeds(
    config: &FleetConfig,
) -> Result<Vec<(Backend, Result<Vec<DeviceSpeed>, String>)>, String> {
    let mut asked = BTreeSet::new();
    let mut answers = Vec::new();
    for candidate in locate::fitting(config).await? {
        let backend = candidate.hello.backend;
        if !asked.insert(backend) {
            continue;
        }
        let answer = timeout(MEASURE_TIMEOUT, locate::ask(&candidate.path, "measure")).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(format!(
                "did not finish measuring within {} s",
                MEASURE_TIMEOUT.as_secs()
            ))
        });
        let place = candidate.path.display();
        answers.push((backend, answer.map_err(|error| format!("{place} {error}"))));
    }
    Ok(answers)
}
