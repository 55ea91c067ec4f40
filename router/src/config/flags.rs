//! `[flags.NAME]`: what is switched on for whom.

use super::families::FLAGS;
use super::getter::Getter;
use super::{ConfigError, Instance};

/// `[flags.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct FlagConfig {
    /// Its name.
    pub name: String,
    /// Off for everyone if not.
    pub enabled: bool,
    /// Share of the tenants that have it, 0 to 100.
    pub percent: f64,
    /// Tenants that have it whatever the share.
    pub tenants: Vec<String>,
    /// What it switches.
    pub about: String,
}

pub(super) fn build(tables: &[Instance], errors: &mut Vec<ConfigError>) -> Vec<FlagConfig> {
    let flags = tables.iter().filter(|table| table.family.name == FLAGS.name);
    flags
        .map(|table| {
            let get = Getter::of_table(table, errors);
            FlagConfig {
                name: table.name.clone(),
                enabled: get.flag("enabled"),
                percent: get.float("percent"),
                tenants: get.strings("tenants"),
                about: get.text("about"),
            }
        })
        .collect()
}
