//! What the machine does at the moment of a scrape.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
    registry::Unit,
};

use crate::MachineGauge;

/// What is known of the machine; what is not does not appear.
#[derive(Debug, Clone, Default)]
pub(super) struct MachineGauges(Arc<Mutex<Vec<MachineGauge>>>);

impl MachineGauges {
    /// Forgets the last moment and shows this one.
    pub(super) fn take_over(&self, gauges: &[MachineGauge]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = gauges.to_vec();
    }
}

impl Collector for MachineGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gauges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for same in gauges.chunk_by(|one, next| one.name == next.name) {
            let about = &same[0];
            let unit = Some(Unit::Other(about.unit.to_owned())).filter(|_| !about.unit.is_empty());
            let shape = ConstGauge::new(about.value).metric_type();
            let mut family =
                encoder.encode_descriptor(about.name, about.help, unit.as_ref(), shape)?;
            for gauge in same {
                let value = ConstGauge::new(gauge.value);
                let Some(label) = gauge.label else {
                    // There is one of its name.
                    value.encode(family)?;
                    break;
                };
                value.encode(family.encode_family(&[label])?)?;
            }
        }
        Ok(())
    }
}
