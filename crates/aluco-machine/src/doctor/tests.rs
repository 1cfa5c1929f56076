//! The rule files as they are built in.

use super::Catalogue;

#[test]
fn every_rule_file_is_sound() {
    let catalogue = Catalogue::embedded();
    assert!(catalogue.rules().len() >= 60, "{}", catalogue.rules().len());
}
