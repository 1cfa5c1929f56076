//! Text in labels.

use std::fmt::{self, Write};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// Text that was not written for it: names of models can be paths, and rules are called as their writer likes. The library writes what
/// it is given, so what would end the label is escaped here, as the form of OpenMetrics asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Label(String);

impl From<&str> for Label {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl EncodeLabelValue for Label {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '\\' => encoder.write_str("\\\\")?,
                '"' => encoder.write_str("\\\"")?,
                '\n' => encoder.write_str("\\n")?,
                _ => encoder.write_char(letter)?,
            }
        }
        Ok(())
    }
}
